package privilege

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// asKeeper makes the test's program a child that keeps LogWriter's capabilities, says what every thread of it has, and
// runs a program that says the same.
const asKeeper = "SKEP_TEST_KEEP"

func TestMain(m *testing.M) {
	if os.Getenv(asKeeper) == "" {
		os.Exit(m.Run())
	}
	if err := LogWriter.Keep(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	threads, _ := filepath.Glob("/proc/self/task/*/status")
	for _, thread := range threads {
		fmt.Println("thread", capabilityMask(thread, "CapEff"), capabilityMask(thread, "CapPrm"))
	}
	executed, err := exec.Command("/bin/grep", "CapEff", "/proc/self/status").Output()
	fmt.Print("executed ", strings.TrimSpace(strings.TrimPrefix(string(executed), "CapEff:")), "\n")
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func capabilityMask(status, field string) string {
	f, err := os.Open(status)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "no " + field
}

// Every thread gives up what is not in the set; a program that is executed has all that the bounding set has.
func TestKeepGivesUpTheRest(t *testing.T) {
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), asKeeper+"=1")
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := fmt.Sprintf("%016x", LogWriter.Mask())
	threads := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		fields := strings.Fields(line)
		switch fields[0] {
		case "thread":
			threads++
			if fields[1] != want || fields[2] != want {
				t.Errorf("a thread has capabilities %s (permitted %s), want %s", fields[1], fields[2], want)
			}
		case "executed":
			if bounding := capabilityMask("/proc/self/status", "CapBnd"); fields[1] != bounding {
				t.Errorf("an executed program has %s, want the bounding set %s", fields[1], bounding)
			}
		}
	}
	if threads < 2 {
		t.Errorf("%d threads were looked at: this shows nothing about the others", threads)
	}
}

// The unit of skepd bounds it to what it keeps; the agent's bounds nothing, as containers get theirs from there.
func TestUnitsNameTheSets(t *testing.T) {
	for unit, want := range map[string]string{"skepd": ControlPlane.String(), "skep-agent": ""} {
		text, err := os.ReadFile(filepath.Join("../../docs/systemd", unit+".service"))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, line := range strings.Split(string(text), "\n") {
			if value, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
				got = value
			}
		}
		if got != want {
			t.Errorf("%s.service has CapabilityBoundingSet=%s, want %q", unit, got, want)
		}
	}
}

// A set that leaves out nothing would prove nothing.
func TestEachSetLeavesOutWhatOpensTheHost(t *testing.T) {
	for name, set := range map[string]Set{"Agent": Agent, "ControlPlane": ControlPlane, "LogWriter": LogWriter} {
		for _, c := range []cap.Value{cap.SYS_MODULE, cap.SYS_RAWIO, cap.SYS_BOOT, cap.SYS_TIME, cap.MAC_ADMIN, cap.AUDIT_CONTROL, cap.SYSLOG} {
			if set.Mask()&(1<<uint(c)) != 0 {
				t.Errorf("%s keeps %s", name, c)
			}
		}
	}
}

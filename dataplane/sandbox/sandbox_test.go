package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m, nil)) }

const envFurnish = "SKEP_TEST_FURNISH"

// TestFurnished is what the tests below start and kill.
func TestFurnished(t *testing.T) {
	pins, cgroup, namespace := Pins(t), NewCgroup(t), NewNamespace(t)
	namespace.Do(Loopback)
	if _, err := os.Stat(pins); err != nil || filepath.Dir(cgroup) != Cgroup() {
		t.Errorf("pins: %v, cgroup %s below %s", err, cgroup, Cgroup())
	}
	if os.Getenv(envFurnish) != "" {
		fmt.Printf("\n@%s %s\n", filepath.Dir(Cgroup()), os.TempDir())
		unix.Pause() // until the end
	}
}

// furnished starts this binary outside of any sandbox, and returns its sandbox's cgroup and folder.
func furnished(t *testing.T) (cmd *exec.Cmd, cgroup, files string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe", "-test.run=^TestFurnished$", "-test.v")
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "SKEP_SANDBOX") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, envFurnish+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if line, ok := strings.CutPrefix(scan.Text(), "@"); ok {
			cgroup, files, _ = strings.Cut(line, " ")
			return cmd, cgroup, files
		}
	}
	t.Fatal("the sandbox was not made")
	return nil, "", ""
}

func gone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestNothingIsLeftWhenAskedToEnd(t *testing.T) {
	cmd, cgroup, files := furnished(t)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	gone(t, cgroup, files)
}

func TestTheNextRunSweepsWhatAKilledOneLeft(t *testing.T) {
	dead, left, files := furnished(t)
	beside, alive, _ := furnished(t)
	if err := dead.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	dead.Wait()
	next, _, _ := furnished(t)
	gone(t, left, files)
	if _, err := os.Stat(filepath.Join(alive, "tests")); err != nil {
		t.Errorf("the sandbox of a process that runs: %v", err)
	}
	for _, cmd := range []*exec.Cmd{beside, next} {
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
	}
}

// A command with a parent death signal outlives threads that end, as those do that have entered another namespace.
func TestStartOutlivesThreads(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	var locked, ended sync.WaitGroup
	end := make(chan struct{})
	for range 50 {
		locked.Add(1)
		ended.Go(func() {
			runtime.LockOSThread() // and not unlocked: the thread ends with its goroutine
			locked.Done()
			<-end
		})
	}
	locked.Wait()
	close(end)
	ended.Wait()
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

package wallclock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tellTime, if set, makes the test binary a process that says what its clocks are, whenever it reads a line.
const tellTime = "SKEP_WALLCLOCK_TELL"

func TestMain(m *testing.M) {
	if os.Getenv(tellTime) == "" {
		os.Exit(m.Run())
	}
	began := time.Now()
	go func() { // another thread that reads the clock without pause
		for !time.Now().IsZero() {
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().Unix(), int(time.Since(began).Seconds()))
	}
}

func TestShift(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), tellTime+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	want := func(shift time.Duration) {
		t.Helper()
		before := time.Now().Unix()
		fmt.Fprintln(in)
		if !lines.Scan() {
			t.Fatal("the process has ended")
		}
		after := time.Now().Unix()
		fields := strings.Fields(lines.Text())
		is, _ := strconv.ParseInt(fields[0], 10, 64)
		if shift := int64(shift.Seconds()); is < before+shift || is > after+shift {
			t.Errorf("its clock says %d, this one %d to %d; want it %ds later", is, before, after, shift)
		}
		if since, _ := strconv.Atoi(fields[1]); since < 0 || since > 60 {
			t.Errorf("its monotonic clock has gone on by %ds", since)
		}
	}
	want(0)
	for _, by := range []time.Duration{-30 * time.Minute, 90 * time.Second} {
		restore, err := Shift(cmd.Process.Pid, by)
		if err != nil {
			t.Fatal(err)
		}
		want(by)
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		want(0)
	}
	restore, err := Shift(cmd.Process.Pid, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := restore(); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// containerd that is stopped accepts calls and never answers. The caller gets an error with the call that was not answered, containers keep
// running, and soon containerd is started again and everything continues.
func TestContainerdThatNeverAnswers(t *testing.T) {
	n := runtimetest.StartWith(t, func(n *runtimetest.Node) { n.Daemon.Patience = 10 * time.Second })
	if _, err := n.Import(context.Background(), runtimetest.Archive(t, testImage, runtimetest.Image(t, nil))); err != nil {
		t.Fatal(err)
	}
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	pidFile := filepath.Join(n.Daemon.State, "containerd.pid")
	pid := func() int {
		data, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		return number
	}
	before := pid()
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "every thread of containerd stopped", func() bool { return allStopped(t, before) })
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := n.Version(short)
	if want := "containerd has not answered /containerd.services.version.v1.Version/Version for "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a call: %v, want %q", err, want)
	}
	runtimetest.Eventually(t, "another containerd", func() bool { return pid() != before })
	runtimetest.Eventually(t, "a command in the container", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		code, err := n.Exec(ctx, c.ID, []string{"true"}, runtime.ExecOptions{})
		return err == nil && code == 0
	})
	if got, ok := n.Container(c.ID); !ok || got.State != runtime.Running || got.Pid != c.Pid {
		t.Errorf("the container became %+v", got)
	}
}

// allStopped says whether all threads of a process have stopped: one that has not may still answer.
func allStopped(t *testing.T, pid int) bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "stat"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("threads of process %d: %v", pid, err)
	}
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		// The state follows the name, which is in parentheses.
		if rest := stat[strings.LastIndexByte(string(stat), ')')+1:]; !strings.HasPrefix(string(rest), " T") {
			return false
		}
	}
	return true
}

// The shim of one pod that hangs holds up that pod, and no other.
func TestShimThatHangs(t *testing.T) {
	n := startNode(t)
	sleep := func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} }
	stuck, other := run(t, n, "uid1", "main", sleep), run(t, n, "uid2", "main", sleep)
	shim, err := strconv.Atoi(parentOf(t, stuck.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "every thread of the shim stopped", func() bool { return allStopped(t, shim) })
	resume := func() { _ = syscall.Kill(shim, syscall.SIGCONT) }
	defer resume()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := n.Exec(ctx, stuck.ID, []string{"true"}, runtime.ExecOptions{}); err == nil {
		t.Error("a command ran in a pod whose shim is stopped")
	}
	long, cancelLong := context.WithTimeout(context.Background(), time.Minute)
	defer cancelLong()
	if code, err := n.Exec(long, other.ID, []string{"true"}, runtime.ExecOptions{}); err != nil || code != 0 {
		t.Errorf("another pod's command: %d, %v", code, err)
	}
	if err := n.Stop(long, other.ID, 0); err != nil {
		t.Errorf("another pod's end: %v", err)
	}
	resume()
	runtimetest.Eventually(t, "a command in the pod whose shim goes on", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		code, err := n.Exec(ctx, stuck.ID, []string{"true"}, runtime.ExecOptions{})
		return err == nil && code == 0
	})
}

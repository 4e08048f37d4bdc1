// Package lab gives tests of the data plane backends and clients in a sandbox: the test process's own network namespace plays
// the host, others play pods.
//
// It owns nothing that outlives a test, and never touches the machine's own namespaces.
package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// Deadline bounds every wait of a test; reaching it is a failure.
const Deadline = 60 * time.Second

// Child is a process of the test's own.
type Child struct {
	Stdout io.Reader
	cmd    *exec.Cmd
}

// StartChild starts the test binary in the sandbox, to do what sandbox.Main was given under that name.
func StartChild(tb testing.TB, name string, env ...string) *Child {
	tb.Helper()
	cmd := sandbox.AsChild(sandbox.Command(tb, sandbox.Cgroup(), 0), name, env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := sandbox.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	child := &Child{stdout, cmd}
	tb.Cleanup(func() { child.Kill() })
	return child
}

// Kill ends the process with SIGKILL and waits for it. An error if it had ended before.
func (c *Child) Kill() error {
	if c.cmd.ProcessState != nil {
		return nil
	}
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	c.cmd.Wait()
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		return fmt.Errorf("it had ended by itself: %s", c.cmd.ProcessState)
	}
	return nil
}

// Pins is a folder on a BPF filesystem of the test's own.
func Pins(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(sandbox.Pins(tb), "skep")
}

// Join moves the test process into a cgroup below its own, made if absent, and back when the returned function is called.
// "..": beside its own.
func Join(tb testing.TB, name string) (leave func()) {
	tb.Helper()
	home := filepath.Join(sandbox.Cgroup(), "cgroup.procs")
	folder := filepath.Join(sandbox.Cgroup(), name)
	if name == ".." {
		folder = filepath.Join(folder, "outside")
	}
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		tb.Fatal(err)
	}
	move := func(to string) {
		if err := os.WriteFile(to, []byte("0"), 0); err != nil {
			tb.Fatal("change cgroup: ", err)
		}
	}
	move(filepath.Join(folder, "cgroup.procs"))
	tb.Cleanup(func() {
		if err := os.Remove(folder); err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Error(err)
		}
	})
	return func() { move(home) }
}

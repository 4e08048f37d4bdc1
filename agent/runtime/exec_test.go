package runtime_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// lockedBuffer is read while a command may still write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestExecEnds(t *testing.T) {
	n := startNode(t)
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	for name, test := range map[string]func(*testing.T, *runtimetest.Node, runtime.Container){
		"with its process":              testExecEndsWithItsProcess,
		"after a slow client":           testExecWaitsForASlowClient,
		"with its group at its timeout": testExecTimeoutKillsTheProcessGroup,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, n, c)
		})
	}
}

// A command has ended even if a child that it left behind holds its output open: such a preStop hook or probe must not delay its
// pod (kubernetes/kubernetes#44371, containerd/containerd#7802 and #9568).
func testExecEndsWithItsProcess(t *testing.T, n *runtimetest.Node, c runtime.Container) {
	for name, test := range map[string]struct {
		script string
		tty    bool
	}{
		"silent child":              {script: "sleep 1000 & echo mine; exit 3"},
		"silent child, terminal":    {script: "trap '' HUP; sleep 1000 & echo mine; exit 3", tty: true},
		"child that prints on":      {script: "echo mine; busybox yes & exit 3"},
		"child that prints at ease": {script: "echo mine; (while true; do echo more; busybox usleep 300000; done) & exit 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var out lockedBuffer
			code, err := n.Exec(ctx, c.ID, []string{"sh", "-c", test.script}, runtime.ExecOptions{Stdout: &out, TTY: test.tty})
			if err != nil || code != 3 || !strings.Contains(out.String(), "mine") {
				t.Errorf("code %d, err %v, output of %d bytes", code, err, len(out.String()))
			}
		})
	}
}

// slowWriter is a client at the end of a thin line.
type slowWriter struct{ got int }

func (s *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(300 * time.Millisecond)
	s.got += len(p)
	return len(p), nil
}

func testExecWaitsForASlowClient(t *testing.T, n *runtimetest.Node, c runtime.Container) {
	var out slowWriter
	code, err := n.Exec(context.Background(), c.ID, []string{"sh", "-c", "dd if=/dev/zero bs=1000 count=200 2>/dev/null"}, runtime.ExecOptions{Stdout: &out})
	if err != nil || code != 0 || out.got != 200_000 {
		t.Errorf("code %d, err %v, %d bytes of 200000", code, err, out.got)
	}
}

// Processes that a command started are killed with it at its timeout, so that probes that time out do not fill the node with
// processes (kubernetes/kubernetes#124226). Here that is at the first output, when the shim has not opened all streams yet.
func testExecTimeoutKillsTheProcessGroup(t *testing.T, n *runtimetest.Node, c runtime.Container) {
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		began := &signalWriter{on: cancel}
		if _, err := n.Exec(ctx, c.ID, []string{"sh", "-c", "sleep 2222 & echo began; sleep 3333"}, runtime.ExecOptions{Stdout: began}); err == nil {
			t.Fatal("the command outlived its context")
		}
		cancel()
	}
	runtimetest.Eventually(t, "end of the commands and their children", func() bool {
		var out lockedBuffer
		if _, err := n.Exec(context.Background(), c.ID, []string{"busybox", "ps"}, runtime.ExecOptions{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(out.String(), "sleep 2222") && !strings.Contains(out.String(), "sleep 3333")
	})
}

// signalWriter signals that something was written.
type signalWriter struct{ on func() }

func (s *signalWriter) Write(p []byte) (int, error) {
	s.on()
	return len(p), nil
}

package runtime_test

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// The path that containers join stays the namespace that it was when the path was returned, even if another process
// has the PID by now.
func TestPinnedPIDNamespace(t *testing.T) {
	n := startNode(t)
	first := run(t, n, "pod", "first", func(c *runtime.ContainerConfig) { c.Command = []string{"sh", "-c", "sleep 1000"} })
	path, err := n.PinPIDNamespace(first.ID)
	if err != nil {
		t.Fatal(err)
	}
	inode := func() uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	pinned := inode()
	second := run(t, n, "pod", "second", func(c *runtime.ContainerConfig) {
		c.PIDNS = path
		c.Command = []string{"sh", "-c", "cat /proc/1/cmdline; echo"}
	})
	waitExit(t, n, second.ID)
	runtimetest.Eventually(t, "the first container's command line", func() bool { return n.Logs.Text(second.ID) == "sleep\x001000\x00\n" })

	if err := n.Stop(context.Background(), first.ID, 0); err != nil {
		t.Fatal(err)
	}
	if got := inode(); got != pinned {
		t.Errorf("the path led to namespace %d and leads to %d", pinned, got)
	}
	if _, err := n.PinPIDNamespace(first.ID); err == nil {
		t.Error("the namespace of a container that has ended was given out")
	}
	again := run(t, n, "pod", "first", func(c *runtime.ContainerConfig) {
		c.Attempt, c.Command = 1, []string{"sh", "-c", "sleep 1000"}
	})
	if _, err := n.PinPIDNamespace(again.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the pin of the namespace that ended: %v", err)
	}
}

package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// A start that fails because containerd ends in the middle leaves a container that runs and that
// the runtime has given up.
func TestContainerThatNobodyKnowsIsEnded(t *testing.T) {
	n := startNode(t)
	fresh, err := runtime.Connect(context.Background(), n.Daemon.Address(), n.Config)
	if err != nil {
		t.Fatal(err)
	}
	lost := run(t, n, "uid1", "lost", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	half, err := fresh.Prepare(context.Background(), "uid2", testImage)
	if err != nil {
		t.Fatal(err)
	}
	n.Disconnect()
	// This runtime has no entry of the container; it follows the events as after containerd's
	// restart.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fresh.Run(ctx) }()
	process, err := unix.PidfdOpen(lost.Pid, 0)
	if err == nil { // else it has ended already
		defer unix.Close(process)
		poll := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		if ready, err := unix.Poll(poll, 30_000); ready != 1 {
			t.Errorf("the container that nobody knows runs on: %v", err)
		}
	}
	// What is being prepared meanwhile is not a leftover.
	if err := fresh.Discard(context.Background(), half); err != nil {
		t.Errorf("a root file system in preparation was removed: %v", err)
	}
	cancel()
	<-done
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
	n.Connect()
	if c, ok := n.Container(lost.ID); ok && c.State == runtime.Running {
		t.Errorf("still there: %+v", c)
	}
}

func TestPodsAreFoundByTheirCgroups(t *testing.T) {
	n := runtimetest.Start(t)
	root := "/sys/fs/cgroup/cpu"
	if n.Cgroups().Unified() {
		root = "/sys/fs/cgroup"
	}
	// The first is where agents had pods before there were classes of service.
	for _, path := range []string{"pods/uid9", "kubepods/poduid9", "kubepods/burstable/poduid9", "kubepods/besteffort/poduid9"} {
		if err := os.MkdirAll(filepath.Join(root, n.Config.CgroupParent, path, "id"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := n.PodUIDs(); len(got) != 1 || got[0] != "uid9" {
			t.Errorf("%s: pods %v, want uid9", path, got)
		}
		if err := n.RemoveSandbox("uid9"); err != nil {
			t.Fatal(err)
		}
		if got := n.PodUIDs(); len(got) != 0 {
			t.Errorf("%s: pods %v after the removal", path, got)
		}
	}
}

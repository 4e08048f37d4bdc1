package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// daemonPID reads what StartContainerd leaves for its successor.
func daemonPID(t *testing.T, n *runtimetest.Node) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.Daemon.State, "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestContainerdDies(t *testing.T) {
	n := startNode(t)
	stays := run(t, n, "uid1", "stays", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	ends := run(t, n, "uid2", "ends", func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "trap 'exit 6' TERM; echo ready; while true; do sleep 0.01; done"}
	})
	awaitReady(t, n, ends.ID)
	first := daemonPID(t, n)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	signalPid(t, ends.Pid) // while nobody listens
	if got := waitExit(t, n, ends.ID); got.ExitCode != 6 {
		t.Errorf("exit while containerd was away: %+v", got)
	}
	if second := daemonPID(t, n); second == first {
		t.Error("containerd was not started again")
	}
	if got, _ := n.Container(stays.ID); got.State != runtime.Running || got.Pid != stays.Pid {
		t.Errorf("the other container is %+v", got)
	}
	again := run(t, n, "uid1", "again", func(c *runtime.ContainerConfig) { c.Command = []string{"true"} })
	if got := waitExit(t, n, again.ID); got.ExitCode != 0 {
		t.Errorf("a container after the restart: %+v", got)
	}
}

func TestContainerdIsAdopted(t *testing.T) {
	n := runtimetest.Start(t)
	ctx, cancel := context.WithCancel(context.Background())
	first := daemonPID(t, n)
	second, err := runtime.StartContainerd(ctx, n.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-second.Done()
	if got := daemonPID(t, n); got != first {
		t.Errorf("containerd is process %d, was %d: a second one was started", got, first)
	}
	if _, err := n.Version(context.Background()); err != nil {
		t.Errorf("containerd does not answer after an agent has left: %v", err)
	}
}

func TestHalfMadeSandboxIsMadeAnew(t *testing.T) {
	n := runtimetest.Start(t)
	cfg := runtime.SandboxConfig{PodUID: "uid1", Hostname: "h"}
	first, fresh, err := n.CreateSandbox(cfg)
	if err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	if _, fresh, err = n.CreateSandbox(cfg); err != nil || fresh {
		t.Fatalf("a complete sandbox was made again (%v)", err)
	}
	if err := syscall.Unmount(first.UTSNS, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, fresh, err = n.CreateSandbox(cfg); err != nil || !fresh {
		t.Fatalf("a half-made sandbox was taken for a whole one (%v)", err)
	}
	if err := n.RemoveSandbox("uid1"); err != nil {
		t.Fatal(err)
	}
	if got := n.Sandboxes(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

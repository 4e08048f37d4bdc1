package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// A container ends while the disk is full: how it ended is known all the same, also to the next agent, and is recorded when there
// is room.
func TestExitOnAFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("full-disk-test", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n := runtimetest.StartWith(t, func(n *runtimetest.Node) { n.Config.StateDir = filepath.Join(disk, "state") })
	if _, err := n.Import(context.Background(), runtimetest.Archive(t, testImage, runtimetest.Image(t, nil))); err != nil {
		t.Fatal(err)
	}
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "trap 'exit 7' TERM; echo ready; while true; do sleep 0.01; done"}
	})
	awaitReady(t, n, c.ID)
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	signalPid(t, c.Pid)
	if got := waitExit(t, n, c.ID); got.ExitCode != 7 {
		t.Errorf("exit code %d", got.ExitCode)
	}
	n.Disconnect()
	n.Connect()
	if got := waitExit(t, n, c.ID); got.ExitCode != 7 {
		t.Errorf("exit code %d after a restart of the agent", got.ExitCode)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(n.PodDir("uid1"), "containers", "main.0.json")
	runtimetest.Eventually(t, "a record of the exit", func() bool {
		data, err := os.ReadFile(record)
		return err == nil && strings.Contains(string(data), `"State":"exited"`)
	})
	// A record that a crash left incomplete does not prevent a start.
	n.Disconnect()
	for path, content := range map[string]string{record: "", filepath.Join(filepath.Dir(record), "other.0.json"): `{"ID":"x`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.Connect()
	if _, err := os.Stat(filepath.Join(filepath.Dir(record), "other.0.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the torn record stays: %v", err)
	}
}

package runtime_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/runtime"
)

// What is mounted below a pod's folders, as a container with Bidirectional propagation leaves it, outlives the pod.
func TestForgottenPodsTakeNoMountWithThem(t *testing.T) {
	n := startNode(t)
	disk := t.TempDir()
	precious := filepath.Join(disk, "precious")
	run := filepath.Join(n.Config.RunDir, "pods", "uid1", "left")
	state := filepath.Join(n.PodDir("uid1"), "volumes", "v", "left")
	for _, at := range []string{run, state} {
		if err := errors.Join(os.WriteFile(precious, nil, 0o600), os.MkdirAll(at, 0o700), unix.Mount(disk, at, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	if err := errors.Join(n.RemoveSandbox("uid1"), n.ForgetPod("uid1")); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{filepath.Dir(run), n.PodDir("uid1")} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s stays: %v", dir, err)
		}
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("removed through a mount: %v", err)
	}
}

// A process that kept its container's message file open holds a lease on it, which makes an open of the file block.
func TestMessageFilesAreNotWaitedFor(t *testing.T) {
	n := startNode(t)
	c := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) { c.Command = []string{"sleep", "1000"} })
	path := filepath.Join(n.PodDir("uid1"), "containers", "main.0.message")
	held, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := unix.FcntlInt(held.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err := n.Signal(t.Context(), c.ID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitExit(t, n, c.ID)
	if took := time.Since(killed); took > 30*time.Second { // the kernel breaks a lease after 45
		t.Errorf("the end was reported %v after it", took)
	}
	again := run(t, n, "uid1", "main", func(c *runtime.ContainerConfig) { c.Command = []string{"true"} })
	waitExit(t, n, again.ID)
}

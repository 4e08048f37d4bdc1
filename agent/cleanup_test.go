package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Clean-up removes what agents and pods made, and no content of mounts: neither of a disk that a pod left mounted, under any
// name, nor of the one that the folder itself is on.
func TestCleanupEntersNoMount(t *testing.T) {
	disk, own := t.TempDir(), t.TempDir()
	precious := filepath.Join(disk, "precious")
	for _, dir := range []string{own, filepath.Join(t.TempDir(), "plain")} {
		left := filepath.Join(dir, "pods", "left \\040 over")
		if dir == own {
			if err := unix.Mount(own, own, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(own, unix.MNT_DETACH) })
		}
		if err := errors.Join(os.WriteFile(precious, nil, 0o600), os.MkdirAll(left, 0o700), unix.Mount(disk, left, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(left, unix.MNT_DETACH) })
		if err := removeDir(dir); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(dir)
		if len(entries) != 0 || dir != own && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left: %v, %v", entries, err)
		}
		if _, err := os.Stat(precious); err != nil {
			t.Errorf("removed through a mount: %v", err)
		}
	}
}

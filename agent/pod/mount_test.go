package pod_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

func mountTmpfs(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mount("test", path, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

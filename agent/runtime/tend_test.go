package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// containerd's log is emptied while the daemon has it open and keeps appending; the end of the old part is kept if the disk has
// space.
func TestDaemonLogIsRotated(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tend-test", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(disk, "containerd.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	const limit = 8 << 10
	write(strings.Repeat("a", limit-1))
	if err := rotateDaemonLog(path, limit); err != nil {
		t.Fatal(err)
	}
	write("the end")
	if err := rotateDaemonLog(path, limit); err != nil {
		t.Fatal(err)
	}
	write("next")
	now, err := os.ReadFile(path)
	old, errOld := os.ReadFile(path + ".1")
	if err != nil || errOld != nil || string(now) != "next" || len(old) != limit || !strings.HasSuffix(string(old), "the end") {
		t.Errorf("now %q (%v), before %d bytes (%v)", now, err, len(old), errOld)
	}
	// A full disk: bounded all the same, and said.
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	_, _ = f.WriteString(strings.Repeat("b", limit)) // what fits
	if err := rotateDaemonLog(path, 4); err == nil {
		t.Log("the old part still fitted")
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Errorf("on a full disk the log is %+v, %v", info, err)
	}
}

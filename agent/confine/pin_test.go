package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPinStaysInside(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "a", "b"), 0o700))
	for name, target := range map[string]string{
		"escape": outside, "up": "../../..", "magic": "/proc/self/root", "inside": "a/b", "a/back": "../a/b", "dangling": "nothing", "loop": "loop",
	} {
		must(t, os.Symlink(target, filepath.Join(root, name)))
	}
	must(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	for _, path := range []string{"escape", "escape/x", "up", "magic", "magic/etc", "dangling/x", "loop", "a/../../x", "fifo/x"} {
		if f, err := PinMakingDirs(root, path); err == nil {
			t.Errorf("%s led to %s", path, target(t, f))
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made outside: %v", entries)
	}
	must(t, os.Chmod(root, 0o2775|os.ModeSetgid))
	for path, want := range map[string]string{"inside": "a/b", "a/back": "a/b", "inside/new/er": "a/b/new/er", "a/back/../x": "a/x", "fifo": "fifo"} {
		soon(t, "pinning "+path, func() {
			f, err := PinMakingDirs(root, path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if got := target(t, f); got != filepath.Join(root, want) {
				t.Errorf("%s led to %s, want %s", path, got, want)
			}
		})
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(root, "a/b/new/er"), &st))
	if st.Mode&0o7777 != 0o2775 {
		t.Errorf("mode %o, want the volume's", st.Mode)
	}
}

func target(t *testing.T, f *os.File) string {
	t.Helper()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	must(t, err)
	return name
}

// CVE-2021-25741: a folder becomes a link, and a folder again, while it is pinned.
func TestPinRacesARename(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(outside, "x"), 0o700))
	must(t, os.MkdirAll(filepath.Join(root, "a", "x"), 0o700))
	must(t, os.Symlink(outside, filepath.Join(root, "b")))
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "a"), unix.AT_FDCWD, filepath.Join(root, "b"), unix.RENAME_EXCHANGE)
			}
		}
	})
	inside := 0
	for range 3000 {
		f, err := PinMakingDirs(root, "a/x")
		if err != nil {
			continue // it was the link
		}
		if name := target(t, f); name != filepath.Join(root, "a", "x") && name != filepath.Join(root, "b", "x") {
			t.Errorf("pinned %s", name)
		}
		inside++
		f.Close()
	}
	close(stop)
	swaps.Wait()
	if inside == 0 {
		t.Error("never pinned: nothing was tested")
	}
}

package confine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// walked counts what a walk finds, and its blocks.
func walked(t *testing.T, path string) (names int, blocks uint64) {
	t.Helper()
	w, err := NewWalk(path)
	must(t, err)
	defer w.Close()
	for {
		found, err := w.Next()
		if errors.Is(err, io.EOF) {
			return names, blocks
		}
		must(t, err)
		names++
		blocks += found.Blocks
	}
}

// lstatted is the same by path, by the standard library, without the skipped paths and what is below them.
func lstatted(t *testing.T, path string, skip ...string) (names int, blocks uint64) {
	t.Helper()
	must(t, filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, s := range skip {
			if p == s && d.IsDir() {
				return fs.SkipDir
			}
			if p == s {
				return nil
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		names++
		blocks += uint64(st.Blocks)
		return nil
	}))
	return names, blocks
}

func TestWalkCountsWhatIsThereAndNothingElse(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "large"), make([]byte, 1<<20), 0o600))
	for _, dir := range []string{"a/b/c", "mount", "wide", "empty"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
	}
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(root, "wide", fmt.Sprintf("a file with a longer name %d", i)), make([]byte, i), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(root, "a/b/c/file"), make([]byte, 100000), 0o000))
	must(t, os.WriteFile(filepath.Join(root, "over"), nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(root, "a/link")))
	must(t, os.Symlink("/", filepath.Join(root, "a/b/root")))
	must(t, unix.Mkfifo(filepath.Join(root, "a/fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(root, "a/zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	mounted(t, filepath.Join(root, "mount"))
	must(t, unix.Mount(filepath.Join(outside, "large"), filepath.Join(root, "over"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(root, "over"), unix.MNT_DETACH) })
	soon(t, "the walk", func() {
		names, blocks := walked(t, root)
		wantNames, wantBlocks := lstatted(t, root, filepath.Join(root, "mount"), filepath.Join(root, "over"))
		if names != wantNames || blocks != wantBlocks {
			t.Errorf("%d names with %d blocks, want %d with %d", names, blocks, wantNames, wantBlocks)
		}
	})
	if _, err := NewWalk(filepath.Join(root, "a/link")); err == nil {
		t.Error("a walk began at a link")
	}
	if _, err := NewWalk(filepath.Join(root, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// nest makes folders in each other, with two more names in each.
func nest(t *testing.T, root string, depth int) {
	t.Helper()
	at, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for i := range depth {
		must(t, unix.Mkdirat(at, fmt.Sprint("nested-", i), 0o700))
		must(t, unix.Mkdirat(at, "beside", 0o700))
		must(t, unix.Mknodat(at, "file", unix.S_IFREG|0o600, 0))
		next, err := unix.Openat(at, fmt.Sprint("nested-", i), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
}

// A tree may be nested deeper than the process may have files open, and than a path is long.
func TestWalkGoesDeep(t *testing.T) {
	root := t.TempDir()
	t.Cleanup(func() { must(t, Empty(root)) })
	const depth = 600 // 6 KB of names
	nest(t, root, depth)
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: before.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }()
	if names, _ := walked(t, root); names != 1+3*depth {
		t.Errorf("%d names, want %d", names, 1+3*depth)
	}
	if open := descriptors(t); open > 50 {
		t.Errorf("%d descriptors are open after the walk", open)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// The folder that the walk is in is moved out of the tree, when those above it are closed already: the walk neither goes up
// outside of the tree nor stops.
func TestWalkIsNotLedOut(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for i := range 100 {
		must(t, os.WriteFile(filepath.Join(outside, fmt.Sprint("precious", i)), nil, 0o600))
	}
	const depth = 150
	nest(t, root, depth)
	w, err := NewWalk(root)
	must(t, err)
	defer w.Close()
	names := 0
	next := func() bool {
		_, err := w.Next()
		if errors.Is(err, io.EOF) {
			return false
		}
		must(t, err)
		names++
		return true
	}
	for len(w.frames) < 120 && next() {
	}
	must(t, os.Rename(nested(root, 100), filepath.Join(outside, "moved"))) // the walk is below
	for next() {
	}
	if names >= 1+3*depth+50 || names < 3*openFrames {
		t.Errorf("%d names of %d", names, 1+3*depth)
	}
}

// nested is the path of one of nest's folders.
func nested(root string, depth int) string {
	for i := range depth {
		root = filepath.Join(root, fmt.Sprint("nested-", i))
	}
	return root
}

// Folders and links take each other's places, files come and go.
func TestWalkRacesChanges(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for i := range 500 {
		must(t, os.WriteFile(filepath.Join(outside, fmt.Sprint("precious", i)), nil, 0o600))
	}
	must(t, os.MkdirAll(filepath.Join(root, "a", "x"), 0o700))
	must(t, os.Symlink(outside, filepath.Join(root, "b")))
	stop := make(chan struct{})
	var changes sync.WaitGroup
	change := func(f func(i int)) {
		changes.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	change(func(int) {
		_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "a"), unix.AT_FDCWD, filepath.Join(root, "b"), unix.RENAME_EXCHANGE)
	})
	change(func(i int) {
		file := filepath.Join(root, fmt.Sprint("file", i%50))
		if i%2 == 0 {
			_ = os.WriteFile(file, nil, 0o600)
		} else {
			_ = os.Remove(filepath.Join(root, fmt.Sprint("file", i%7)))
		}
	})
	for range 500 {
		if names, _ := walked(t, root); names > 200 {
			t.Fatalf("%d names: the link was followed", names)
		}
	}
	close(stop)
	changes.Wait()
}

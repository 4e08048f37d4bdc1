package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// soon fails the test if f waits for something, as opening a FIFO would.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits", what)
	}
}

func mustDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mounted is a folder of a tmpfs with the file "precious" on it, at path.
func mounted(t *testing.T, path string) (precious string) {
	t.Helper()
	elsewhere := t.TempDir()
	precious = filepath.Join(elsewhere, "precious")
	must(t, os.WriteFile(precious, []byte("x"), 0o600))
	must(t, unix.Mount(elsewhere, path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return precious
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("hello"), 0o600))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, unix.Mknod(at("zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	must(t, os.Symlink("/dev/zero", at("link")))
	must(t, os.Mkdir(at("folder"), 0o700))
	for _, name := range []string{"fifo", "zero", "folder"} {
		soon(t, "opening a "+name, func() {
			if _, err := ReadRegular(at(name), 10); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%s: error %v", name, err)
			}
			if _, err := CreateRegular(at(name), os.O_RDWR, 0o600); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%s for writing: error %v", name, err)
			}
		})
	}
	if _, err := ReadRegular(at("link"), 10); err == nil {
		t.Error("a link was followed")
	}
	if data, err := ReadRegular(at("file"), 4); err != nil || string(data) != "hell" {
		t.Errorf("read %q, %v", data, err)
	}
	if _, err := ReadRegular(at("absent"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	f, err := CreateRegular(at("new"), os.O_RDWR, 0o640)
	must(t, err)
	f.Close()
}

// A lease makes an open wait until its holder gives way, 45 s by default.
func TestLeasesAreNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	held, err := os.Open(path)
	must(t, err)
	defer held.Close()
	must(t, os.Chmod(path, 0o600))
	if _, err := unix.FcntlInt(held.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	soon(t, "opening a file with a lease", func() {
		if f, err := OpenRegular(path, os.O_RDWR); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("opened %v, error %v", f, err)
		}
	})
}

func TestImagesFilesAreFoundInTheImage(t *testing.T) {
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	must(t, os.MkdirAll(at("etc/real"), 0o700))
	must(t, os.WriteFile(at("etc/real/passwd"), []byte("image"), 0o600))
	for name, target := range map[string]string{
		"relative": "real/passwd", "absolute": "/etc/real/passwd", "up": "../../../../etc/real/passwd", "magic": "/proc/self/exe",
		"loop": "loop", "out": "/etc/hostname",
	} {
		must(t, os.Symlink(target, at("etc/"+name)))
	}
	must(t, unix.Mkfifo(at("etc/fifo"), 0o600))
	d := mustDir(t, root)
	for _, name := range []string{"relative", "absolute", "up"} {
		f, err := d.OpenInRoot("etc/" + name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
	for _, name := range []string{"magic", "loop", "out", "fifo"} {
		soon(t, "opening "+name, func() {
			if _, err := d.OpenInRoot("etc/" + name); err == nil {
				t.Errorf("%s was opened", name)
			}
		})
	}
}

func TestNothingIsReachedOutside(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(root, "link")))
	must(t, os.Mkdir(filepath.Join(root, "mount"), 0o700))
	precious := mounted(t, filepath.Join(root, "mount"))
	d := mustDir(t, root)
	for _, name := range []string{"link", "mount", "..", "/etc", "link/x"} {
		if sub, err := d.Dir(name); err == nil {
			t.Errorf("%s was opened: %s", name, sub.f.Name())
		}
		if _, err := d.MkdirAll(name+"/made", 0o700); err == nil {
			t.Errorf("a folder was made in %s", name)
		}
		if err := d.Create(name+"/file", nil, 0o600, nil); err == nil {
			t.Errorf("a file was made in %s", name)
		}
	}
	must(t, os.Symlink(precious, filepath.Join(root, "taken")))
	if err := d.Create("taken", []byte("y"), 0o600, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a link: %v", err)
	}
	for _, name := range []string{"a/b", "..", ".", ""} {
		if d.RemoveAll(name) == nil || d.Symlink("x", name, "tmp") == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "x" {
		t.Errorf("outside: %q, %v", got, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("outside: %v", entries)
	}
}

func TestSymlinkReplacesAnything(t *testing.T) {
	dir := t.TempDir()
	d := mustDir(t, dir)
	must(t, os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "tmp", "full"), 0o700))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	for _, name := range []string{"folder", "fifo", "link", "new"} {
		must(t, d.Symlink("target", name, "tmp"))
		if !d.LeadsTo(name, "target") || d.LeadsTo(name, "targe") || d.LeadsTo(name, "targets") {
			t.Errorf("%s does not lead there", name)
		}
	}
}

// CVE-2017-1002102: what a container links to is not removed; and what is mounted below is neither entered.
func TestRemovalStaysInside(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	tree := filepath.Join(root, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "a", "b"), 0o700))
	must(t, os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(tree, "a", "link")))
	must(t, unix.Mkfifo(filepath.Join(tree, "a", "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(tree, "file"), nil, 0o600))
	// Over each other, in a folder and on a file, the last with a name that mountinfo escapes.
	must(t, os.Mkdir(filepath.Join(tree, "two words"), 0o700))
	var precious []string
	for _, name := range []string{"a/b", "a/b", "two words"} {
		precious = append(precious, mounted(t, filepath.Join(tree, name)))
	}
	must(t, unix.Mount(filepath.Join(outside, "kept"), filepath.Join(tree, "file"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(tree, "file"), unix.MNT_DETACH) })
	must(t, RemoveAll(tree))
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree stays: %v", err)
	}
	for _, path := range append(precious, filepath.Join(outside, "kept")) {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("removed through a mount or a link: %v", err)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), tree) {
		t.Errorf("something is still mounted below %s (%v)", tree, err)
	}
	must(t, RemoveAll(tree)) // not there
	must(t, RemoveAll(filepath.Join(tree, "nor", "this")))
}

func TestEmptyKeepsTheFolder(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	precious := mounted(t, filepath.Join(dir, "a", "b"))
	must(t, Empty(dir))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	must(t, Empty(filepath.Join(dir, "absent")))
}

// A tree may be nested deeper than the process may have files open, and than a path is long.
func TestDeepTreesAreRemoved(t *testing.T) {
	root := t.TempDir()
	const depth = 1000
	at, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for i := range depth {
		name := fmt.Sprint("nested-", i)
		must(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(at)
		at = next
		must(t, unix.Mkdirat(at, "beside", 0o700))
	}
	unix.Close(at)
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 400, Max: before.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }()
	must(t, RemoveAll(filepath.Join(root, "nested-0")))
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// Two that remove one tree at the same time both succeed: an agent that leaves may be at it when the next one begins.
func TestRemoveAllTwice(t *testing.T) {
	for round := range 300 {
		path := filepath.Join(t.TempDir(), "pod")
		for i := range 4 {
			if err := os.MkdirAll(filepath.Join(path, fmt.Sprint("ns", i), "deep"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		var both errgroup.Group
		for range 2 {
			both.Go(func() error { return RemoveAll(path) })
		}
		if err := both.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

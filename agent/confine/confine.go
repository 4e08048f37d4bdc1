// Package confine opens files below folders that a container can write in.
//
// A container may put anything at any name there and change it at any time: links to files of the node, FIFOs whose opening
// waits for ever, device files that act when they are opened, folders nested deeper than a process may hold descriptors, mounts
// that propagate back. Here a name is resolved by the kernel in one openat2 that cannot leave the folder, the file is checked
// before it is opened, and then used by descriptor, never by name again.
//
// os.Root keeps inside of a folder too, but opens whatever it finds (a FIFO, a device), refuses absolute links, which images
// have, enters mounts, and holds a descriptor for each level that it removes.
//
// Paths passed to functions of this package are trusted, names passed to methods of Dir are not. It does not depend on pods.
package confine

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is an open folder. Its methods reach nothing outside of it or across a mount, and follow no link, except where a method
// says so.
type Dir struct{ f *os.File }

// Open opens a folder that no container can replace.
func Open(path string) (*Dir, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{f}, nil
}

// Close closes the folder.
func (d *Dir) Close() error { return d.f.Close() }

func (d *Dir) fd() int { return int(d.f.Fd()) }

// below is how the names of a Dir are resolved.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openat2 repeats a call that a concurrent rename or a signal interrupted.
func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for attempt := 0; ; attempt++ {
		fd, err := unix.Openat2(dir, name, &how)
		if (err == unix.EAGAIN || err == unix.EINTR) && attempt < 1000 {
			continue
		}
		return fd, err
	}
}

// single refuses paths of more than one name: calls other than openat2 would follow links in them.
func single(name string) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return &fs.PathError{Op: "use", Path: name, Err: errors.New("not a single name")}
	}
	return nil
}

func (d *Dir) pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.f.Name(), name), Err: err}
}

// Dir opens a folder below.
func (d *Dir) Dir(name string) (*Dir, error) {
	fd, err := openat2(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY, below)
	if err != nil {
		return nil, d.pathError("open", name, err)
	}
	return &Dir{os.NewFile(uintptr(fd), filepath.Join(d.f.Name(), name))}, nil
}

// MkdirAll makes the missing folders of a path, and opens the last. Those that it makes have exactly the mode.
func (d *Dir) MkdirAll(path string, mode uint32) (*Dir, error) {
	fd, err := unix.FcntlInt(d.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, d.pathError("open", ".", err)
	}
	at := &Dir{os.NewFile(uintptr(fd), d.f.Name())}
	for _, name := range strings.Split(filepath.Clean(path), "/") {
		next, err := at.mkdir(name, mode)
		at.Close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

func (d *Dir) mkdir(name string, mode uint32) (*Dir, error) {
	if err := single(name); err != nil {
		return nil, err
	}
	err := unix.Mkdirat(d.fd(), name, mode)
	if err != nil && err != unix.EEXIST {
		return nil, d.pathError("mkdir", name, err)
	}
	made := err == nil
	next, err := d.Dir(name)
	if err != nil {
		return nil, err
	}
	if made {
		if err := unix.Fchmod(next.fd(), mode); err != nil { // whatever the umask
			next.Close()
			return nil, d.pathError("chmod", name, err)
		}
	}
	return next, nil
}

// Create makes a new file with data; with gid nil it has the agent's group.
func (d *Dir) Create(name string, data []byte, mode uint32, gid *int64) error {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: 0o600, Resolve: below}
	fd, err := unix.Openat2(d.fd(), name, &how)
	if err != nil {
		return d.pathError("create", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.f.Name(), name))
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if gid != nil {
		if err := f.Chown(-1, int(*gid)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return d.pathError("chmod", name, err)
	}
	return f.Close()
}

// Symlink makes name a link, in one rename if the name exists. temporary is a name that is not used otherwise.
func (d *Dir) Symlink(target, name, temporary string) error {
	if err := single(name); err != nil {
		return err
	}
	if err := d.RemoveAll(temporary); err != nil {
		return err
	}
	if err := unix.Symlinkat(target, d.fd(), temporary); err != nil {
		return d.pathError("symlink", temporary, err)
	}
	err := unix.Renameat(d.fd(), temporary, d.fd(), name)
	if err == unix.EISDIR || err == unix.EBUSY {
		if err := d.RemoveAll(name); err != nil {
			return err
		}
		err = unix.Renameat(d.fd(), temporary, d.fd(), name)
	}
	return d.pathError("rename", name, err)
}

// LeadsTo says whether name is a link to target.
func (d *Dir) LeadsTo(name, target string) bool {
	buf := make([]byte, len(target)+1)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	return err == nil && string(buf[:n]) == target
}

// Each calls f for every name in the folder. It reads a few at a time, so that a folder with very many needs little memory.
func (d *Dir) Each(f func(name string) error) error {
	fd, err := openat2(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY, below)
	if err != nil {
		return d.pathError("open", ".", err)
	}
	dir := os.NewFile(uintptr(fd), d.f.Name())
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

package confine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotRegular means that a name exists, but is not a regular file, so that opening it may have side effects.
var ErrNotRegular = errors.New("not a regular file")

// OpenRegular opens a file that exists. Its folder is trusted; the name itself may be anything: no link is followed, nothing but
// a regular file is opened, and the call never waits (a lease that a container holds on the file is EWOULDBLOCK).
func OpenRegular(path string, flags int) (*os.File, error) {
	fd, err := openat2(unix.AT_FDCWD, path, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return reopen(fd, flags, path)
}

// CreateRegular is OpenRegular, but makes the file if it is missing.
func CreateRegular(path string, flags int, mode uint32) (*os.File, error) {
	for {
		f, err := OpenRegular(path, flags)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		f, err = os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fs.FileMode(mode))
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// ReadRegular reads the first limit bytes of a file, opened by OpenRegular.
func ReadRegular(path string, limit int64) ([]byte, error) {
	f, err := OpenRegular(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// OpenInRoot opens a regular file of an image for reading, as a process whose root is this folder would find it: links are
// followed, absolute ones from this folder.
func (d *Dir) OpenInRoot(name string) (*os.File, error) {
	fd, err := openat2(d.fd(), name, unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, d.pathError("open", name, err)
	}
	return reopen(fd, unix.O_RDONLY, filepath.Join(d.f.Name(), name))
}

// reopen opens the file of an O_PATH descriptor, which it closes.
func reopen(pinned, flags int, name string) (*os.File, error) {
	defer unix.Close(pinned)
	var st unix.Stat_t
	if err := unix.Fstat(pinned, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", pinned), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

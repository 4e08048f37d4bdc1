package confine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a file or folder with everything in it, and nothing else: mounts at it or below are detached and not
// entered. The tree may be of any depth and size. A missing path is no error.
func RemoveAll(path string) error {
	parent, err := Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.RemoveAll(filepath.Base(path))
}

// Empty removes everything in a folder, as RemoveAll does, and leaves the folder. One that does not exist is no error.
func Empty(path string) error {
	d, err := Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return (&removal{}).contents(d, 0)
}

// RemoveAll removes a name, as the function of the same name does.
func (d *Dir) RemoveAll(name string) error {
	if err := single(name); err != nil {
		return err
	}
	return (&removal{}).entry(d, name, 0)
}

const (
	// maxDepth limits the open descriptors: deeper folders are moved up first.
	maxDepth = 64
	// maxPasses ends the removal of a folder that another process fills as fast as it is emptied.
	maxPasses = 1 << 20
	// maxAttempts ends the removal of a name that another process keeps changing.
	maxAttempts = 100
)

// removal is the removal of one tree.
type removal struct {
	top     *Dir // the outermost folder being emptied: deep ones are moved here
	moved   int
	removed int // names removed or moved
}

// entry removes one name in dir.
func (r *removal) entry(dir *Dir, name string, depth int) error {
	for range maxAttempts {
		err := unix.Unlinkat(dir.fd(), name, 0)
		if err == unix.EISDIR {
			err = unix.Unlinkat(dir.fd(), name, unix.AT_REMOVEDIR)
		}
		switch err {
		case nil:
			r.removed++
			return nil
		case unix.ENOENT:
			return nil
		case unix.EBUSY:
			err = detach(dir, name)
		case unix.ENOTEMPTY, unix.EEXIST:
			if depth >= maxDepth && r.moveUp(dir, name) {
				return nil
			}
			err = r.folder(dir, name, depth)
		case unix.ENOTDIR: // replaced: it was a folder before
			err = nil
		}
		if err != nil {
			return dir.pathError("remove", name, err)
		}
	}
	return dir.pathError("remove", name, errors.New("something else changes it all the time"))
}

func (r *removal) folder(dir *Dir, name string, depth int) error {
	sub, err := dir.Dir(name)
	switch {
	case errors.Is(err, unix.EXDEV):
		return detach(dir, name)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // replaced
	case err != nil:
		return err
	}
	defer sub.Close()
	return r.contents(sub, depth+1)
}

// contents removes everything in dir. It continues after failures.
func (r *removal) contents(dir *Dir, depth int) error {
	outermost := r.top == nil
	if outermost {
		r.top = dir
		defer func() { r.top = nil }()
	}
	idle := 0 // passes in a row that found names and removed none, as another process had removed them first
	for range maxPasses {
		empty, before := true, r.removed
		var failed error
		err := dir.Each(func(name string) error {
			empty = false
			if err := r.entry(dir, name, depth); err != nil && failed == nil {
				failed = err
			}
			return nil
		})
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil // another process has removed the folder itself
		case err != nil:
			return err
		case failed != nil:
			return failed
		case empty, !outermost: // an inner one's rmdir shows whether new names were added
			return nil
		case r.removed > before:
			idle = 0
		case idle == maxAttempts:
			return dir.pathError("remove", ".", errors.New("its files stay"))
		default:
			idle++
		}
	}
	return dir.pathError("remove", ".", errors.New("something else fills it all the time"))
}

// moveUp moves a folder that is too deep to the outermost one, whose next pass removes it.
func (r *removal) moveUp(dir *Dir, name string) bool {
	for range maxAttempts {
		r.moved++
		to := fmt.Sprintf("..deep-%d-%s", r.moved, rand.Text()[:8])
		err := unix.Renameat2(dir.fd(), name, r.top.fd(), to, unix.RENAME_NOREPLACE)
		if err == nil {
			r.removed++
			return true
		}
		if err != unix.EEXIST {
			return false
		}
	}
	return false
}

// detach unmounts the mounts at a name, without entering them.
func detach(dir *Dir, name string) error {
	fd, err := openat2(dir.fd(), name, unix.O_PATH|unix.O_NOFOLLOW, below&^unix.RESOLVE_NO_XDEV)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return nil
}

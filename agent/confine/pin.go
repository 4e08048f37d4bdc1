package confine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// following is how a path of a volume is resolved: links are followed as long as they stay in the volume.
const following = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// Pin returns the file that a path below root names, unopened (O_PATH): it can be examined and mounted, even if the name
// changes afterwards. Links and mounts are followed, links only to files below root.
func Pin(root, path string) (*os.File, error) {
	return pin(root, path, unix.O_PATH)
}

func pin(root, path string, flags int) (*os.File, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(base)
	name := filepath.Join(root, path)
	fd, err := openat2(base, path, flags, following)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// PinMakingDirs is Pin, but makes the missing folders of a path, with root's own mode.
func PinMakingDirs(root, path string) (*os.File, error) {
	found, err := Pin(root, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	at, err := Open(root)
	if err != nil {
		return nil, err
	}
	done := ""
	for _, name := range strings.Split(filepath.Clean(path), "/") {
		done = filepath.Join(done, name)
		// From root each time: a link may lead up again.
		next, err := pin(root, done, unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			var made *Dir
			if made, err = at.mkdir(name, st.Mode&0o7777); err == nil {
				next = made.f
			}
		}
		at.Close()
		if err != nil {
			return nil, err
		}
		at = &Dir{next}
	}
	at.Close()
	return Pin(root, path)
}

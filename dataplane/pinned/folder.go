package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const linkFolder = "links"

// Lock makes a folder if it is absent, and this process its only owner until it ends or the file is closed.
func Lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, linkFolder), 0o700); err != nil {
		return nil, fmt.Errorf("make pin folder: %w: a BPF filesystem that root may write has to be mounted there", err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open pin folder: %w", err)
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		folder.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("pin folder %s is owned by another process: stop that agent first", dir)
		}
		return nil, fmt.Errorf("lock pin folder %s: %w", dir, err)
	}
	return folder, nil
}

// Replace pins at a path and replaces a pin that is there.
func Replace(path string, pin func(string) error) error {
	unfinished := path + "_next"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove unfinished pin: %w", err)
	}
	if err := pin(unfinished); err != nil {
		return fmt.Errorf("pin %s: %w", unfinished, err)
	}
	return os.Rename(unfinished, path)
}

// ReplaceFolder makes the folder next the current one, and removes the former.
func ReplaceFolder(next, current string) error {
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, current, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(next, current)
	}
	if err != nil {
		return fmt.Errorf("replace pinned maps %s: %w", current, err)
	}
	if err := os.RemoveAll(next); err != nil {
		return fmt.Errorf("remove replaced maps: %w", err)
	}
	return nil
}

// Remove detaches every program and removes every pin below a folder. It succeeds if there is nothing.
func Remove(dir string) error {
	names, err := Links(dir)
	failed := []error{err}
	for _, name := range names {
		failed = append(failed, Detach(LinkPath(dir, name)))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// Package durable writes small files reliably: after a crash, a loss of power or a full disk the file has the old content or the
// new one, never a part, and content that was reported as written is there. Agent and skepd both write their files by it.
//
// It must not be used in folders that a container can write in.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile replaces a file and returns when the new content will survive a loss of power.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	if err := Replace(path, data, mode, true); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return explain(path, err)
	}
	return nil
}

// SyncDir makes renames, new files and removals in a folder survive a loss of power.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Replace replaces a file: a reader, also after a crash of the process, finds the old content or the new one. Unless synced is
// set, a loss of power may leave either, or nothing.
func Replace(path string, data []byte, mode os.FileMode, synced bool) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return explain(path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && synced {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		// A partial file would use space on a full disk.
		return explain(path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// explain names the disk if it is full: an operator who has to free space needs to know which.
func explain(path string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return fmt.Errorf("write %s: %w", path, FullError{Path: path, Err: err})
}

// FullError is a write that failed because the disk is full.
type FullError struct {
	Path string
	Err  error
}

// Error implements error.
func (e FullError) Error() string {
	var st unix.Statfs_t
	dir := filepath.Dir(e.Path)
	if unix.Statfs(dir, &st) != nil {
		return fmt.Sprintf("the disk of %s is full: make room: %v", dir, e.Err)
	}
	return fmt.Sprintf("the disk of %s is full (%d of %d bytes and %d of %d inodes free): make room: %v",
		dir, int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize, st.Ffree, st.Files, e.Err)
}

// Unwrap implements errors.Unwrap.
func (e FullError) Unwrap() error { return e.Err }

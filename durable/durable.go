// Package durable writes small files so that they can be believed: after a crash, a loss of power or a full disk there is the old
// content or the new one, never a part, and what was reported as written is there. Agent and skepd both keep theirs by it.
//
// It never writes where a container can reach.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile replaces a file and returns when it will outlive a loss of power.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	if err := Replace(path, data, mode, true); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return explain(path, err)
	}
	return nil
}

// SyncDir makes what was renamed, made or removed in a folder outlive a loss of power.
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
		// A part of a file would take room on a disk that is full.
		return explain(path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}

// explain names the disk where it is full: the path alone says little to who has to make room.
func explain(path string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return fmt.Errorf("write %s: %w", path, FullError{Path: path, Err: err})
}

// FullError is a write that failed for want of room.
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

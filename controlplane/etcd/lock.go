package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const lockName = "skepd.lock"

// Lock is held on a data directory by the process that may use it, until it is released or the process ends, however it ends.
type Lock struct {
	dir  string // of etcd's data
	file *os.File
}

// TakeLock makes the folder of etcd's data in skepd's data directory, and takes the lock on it.
func TakeLock(dataDir string) (*Lock, error) {
	dir := filepath.Join(dataDir, "etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory for etcd's data: %w", err)
	}
	file, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return &Lock{dir: dir, file: file}, nil
}

// Release gives the lock up.
func (l *Lock) Release() { _ = l.file.Close() } // nothing was written that must be kept

// Initialized says whether a member has written to the directory.
func (l *Lock) Initialized() bool {
	logs, err := filepath.Glob(filepath.Join(l.dir, "member", "wal", "*.wal"))
	return err == nil && len(logs) > 0
}

// discardUnstarted removes the data of a member that was killed after it had made its log and before it knew anything to be committed there. It has
// neither acknowledged an entry nor voted, and with such a log etcd knows no member to speak to: on an empty directory it asks them.
func (l *Lock) discardUnstarted() error {
	if !l.Initialized() {
		return nil
	}
	member := filepath.Join(l.dir, "member")
	log, err := wal.OpenForRead(zap.NewNop(), filepath.Join(member, "wal"), &walpb.Snapshot{})
	if err != nil {
		return nil // its beginning is gone: it has entries, or etcd says what is wrong with it
	}
	_, state, _, err := log.ReadAll()
	_ = log.Close() // nothing was written
	if err != nil || state.GetCommit() > 0 || state.GetVote() > 0 {
		return nil
	}
	slog.Info("This server was stopped before the others had sent it anything: it begins anew", "removed", member)
	return os.RemoveAll(member)
}

// lockDir takes the lock on a data directory. It lasts until the file is closed
// or the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock etcd's data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		holder := "another skepd"
		if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
			holder += " (process " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fmt.Errorf("%s is in use by %s: stop that, or name another --data-dir", dir, holder)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock etcd's data directory with %s: %w", path, err)
	}
	return f, nil
}

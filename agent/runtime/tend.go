package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tendInterval    = 10 * time.Second
	askTimeout      = 10 * time.Second
	defaultPatience = time.Minute
	// maxDaemonLog is where containerd's log is moved aside; one old file is kept.
	maxDaemonLog = 10 << 20
)

// tend looks after the daemon that fd, a pidfd, names until ctx ends: its log
// stays small, and a daemon that lives but has stopped to answer is killed.
// Nothing else would end that: its socket still takes connections.
func (d *Daemon) tend(ctx context.Context, fd int) {
	patience := d.cfg.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	interval := min(tendInterval, patience/4)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	answered := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := rotateDaemonLog(d.cfg.logFile(), maxDaemonLog); err != nil {
			slog.Error("containerd's log is not rotated", "err", err)
		}
		asking, cancel := context.WithTimeout(ctx, min(askTimeout, patience/2))
		err := serving(asking, d.cfg.Address())
		cancel()
		silent := time.Since(answered)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			answered = time.Now()
		case silent < patience:
			slog.Warn("containerd does not answer", "pid", d.pid, "since", silent.Round(time.Second), "killed_after", patience, "err", err)
		default:
			slog.Error("containerd does not answer; killing it, to start it again", "pid", d.pid, "since", silent.Round(time.Second), "err", err)
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
				slog.Error("containerd not killed", "pid", d.pid, "err", err)
			}
			answered = time.Now() // one that is stuck in the kernel dies when it can
		}
	}
}

// rotateDaemonLog moves a log that has grown aside. The daemon has it open and
// cannot be told, so its content is copied and the file emptied; on a full disk
// it is emptied all the same.
func rotateDaemonLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() < limit {
		return nil
	}
	if err != nil {
		return err
	}
	copied := copyTail(path, path+".1", limit)
	if copied != nil {
		copied = fmt.Errorf("keep the old part of %s: %w", path, copied)
	}
	return errors.Join(copied, os.Truncate(path, 0))
}

// copyTail copies the last part of a file.
func copyTail(from, to string, limit int64) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if info, err := source.Stat(); err == nil && info.Size() > limit {
		if _, err := source.Seek(-limit, io.SeekEnd); err != nil {
			return err
		}
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, io.LimitReader(source, limit))
	if err = errors.Join(err, target.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

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

	"github.com/skep-io/skep/agent/silence"
)

const (
	tendInterval    = 10 * time.Second
	askTimeout      = 10 * time.Second
	defaultPatience = time.Minute
	// maxDaemonLog is the size at which containerd's log is rotated; one old file is kept.
	maxDaemonLog = 10 << 20
)

// tend rotates the daemon's log, and kills the daemon if it runs but does not answer, until ctx
// ends. fd is the daemon's pidfd.
func (d *Daemon) tend(ctx context.Context, fd int) {
	patience := d.cfg.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	interval := min(tendInterval, patience/4)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	clock := silence.NewClock("containerd", min(askTimeout, patience/2), patience, slog.Default())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := rotateDaemonLog(d.cfg.logFile(), maxDaemonLog); err != nil {
			slog.Error("containerd's log is not rotated", "err", err)
		}
		ask := func(ctx context.Context) error { return serving(ctx, d.cfg.Address()) }
		if !clock.Ask(ctx, ask, "pid", d.pid) {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
			slog.Error("containerd not killed", "pid", d.pid, "err", err)
		}
	}
}

// rotateDaemonLog rotates a log that is too large. The daemon has it open and cannot reopen it, so
// its content is copied and the file emptied; on a full disk it is emptied without a copy.
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

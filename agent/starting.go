package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// startLimit is how long a host's lease is renewed while its agent starts, over all attempts together.
const startLimit = 30 * time.Second

// renewWhileStarting renews the lease of a host that was a node before while its agent starts: its pods and its programs in the
// kernel keep working, and on a busy host loading new programs can take longer than the lease holds. An agent that does not
// come up within startLimit, because it hangs or fails again and again, stops renewing, so that the cluster counts the host as
// down.
func (m *membership) renewWhileStarting(ctx context.Context, group *errgroup.Group) error {
	mark := filepath.Join(m.cfg.RunDir, "starting")
	left, err := startTime(mark)
	if err != nil {
		return fmt.Errorf("record of the agent's start: %w", err)
	}
	if left <= 0 {
		slog.Warn("the agent has not started in time: its lease is not renewed until it has", "tried", startLimit-left)
	}
	ctx, cancel := context.WithTimeout(ctx, max(left, 0))
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		m.node.RenewLease(ctx)
	}()
	group.Go(func() error {
		defer func() { cancel(); <-renewed }()
		select {
		case <-m.started:
			if err := os.Remove(mark); err != nil {
				return fmt.Errorf("record of the agent's start: %w", err)
			}
		case <-ctx.Done():
		}
		return nil
	})
	return nil
}

// startTime is how much of startLimit remains. The file at path says when the first start since the agent was last up began.
func startTime(path string) (left time.Duration, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return startLimit, os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return 0, err
	}
	return min(startLimit, startLimit-time.Since(info.ModTime())), nil
}

package watchcache

import (
	"context"
	"log/slog"
	"time"
)

// askProgress asks etcd how far the watch is for as long as readers wait for a revision.
// It sends one request at a time, however many readers wait: many requests could fill the
// watch's stream, and one answer serves all readers that came before the request.
func (c *Cache) askProgress(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ask:
		}
		for c.awaited() && ctx.Err() == nil {
			c.askOnce(ctx)
		}
	}
}

// askOnce asks and waits for the answer, or until it is time to ask again.
func (c *Cache) askOnce(ctx context.Context) {
	select {
	case <-c.answered: // to a question that was given up
	default:
	}
	if err := c.store.RequestProgress(ctx, c.prefix); err != nil && ctx.Err() == nil {
		slog.Debug("Cache cannot request progress from etcd", "prefix", c.prefix, "err", err)
	}
	retry := time.NewTimer(progressRetry)
	defer retry.Stop()
	select {
	case <-c.answered:
	case <-retry.C:
	case <-ctx.Done():
	}
}

// awaited says whether a reader waits for a revision.
func (c *Cache) awaited() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.waiters) > 0
}

// signal wakes whoever reads from a channel with room for one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

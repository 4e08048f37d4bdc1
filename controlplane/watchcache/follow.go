package watchcache

import (
	"context"
	"time"

	"github.com/skep-io/skep/backoff"
)

// How long to wait before the store is asked again for its revision after an error: at first, and at most.
const (
	freshRetry    = 200 * time.Millisecond
	freshRetryMax = 2 * time.Second
)

// Follow calls h as Subscribe does, from the caller's goroutine, until ctx or
// the cache ends. Between the initial state and what comes after it h gets a
// bookmark with InitialEventsEnd. The initial state has all that was in the store
// when Follow was called: a loop that takes over sees its predecessor's last write.
func (c *Cache) Follow(ctx context.Context, h func(Event)) error {
	if err := c.waitFresh(ctx); err != nil {
		return err
	}
	w, err := c.Watch(WatchOptions{Initial: true, InitialEventsEnd: true, unlimited: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, ev := range events {
			h(ev)
		}
	}
}

// waitFresh waits until the cache has what the store has now.
func (c *Cache) waitFresh(ctx context.Context) error {
	var revision int64
	err := backoff.Retry{
		First: freshRetry, Last: freshRetryMax, Attrs: []any{"prefix", c.prefix},
		Failing: "A control loop waits for the revision of etcd", Working: "A control loop has the revision of etcd",
	}.Do(ctx, func(ctx context.Context) (err error) {
		revision, err = c.store.Revision(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return c.WaitUntil(ctx, revision)
}

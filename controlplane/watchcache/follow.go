package watchcache

import (
	"context"
	"time"
)

// freshRetry is how long to wait after the store could not be asked its revision.
const freshRetry = 200 * time.Millisecond

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
	for {
		revision, err := c.store.Revision(ctx)
		if err == nil {
			return c.WaitUntil(ctx, revision)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(freshRetry):
		}
	}
}

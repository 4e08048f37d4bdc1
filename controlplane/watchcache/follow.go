package watchcache

import "context"

// Follow calls h as Subscribe does, from the caller's goroutine, until ctx or
// the cache ends. Between the initial state and what comes after it h gets a
// bookmark with InitialEventsEnd.
func (c *Cache) Follow(ctx context.Context, h func(Event)) error {
	if err := c.WaitForSync(ctx); err != nil {
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

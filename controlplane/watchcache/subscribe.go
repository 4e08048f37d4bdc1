package watchcache

// Subscribe calls h with the whole state, as Added events, and then with every
// event in order, from one goroutine, while Run runs. h may read the cache. It
// should only enqueue: events that wait for h use memory without a limit. When the cache
// has to list again, h gets the difference.
func (c *Cache) Subscribe(h func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers = append(c.handlers, h)
	if c.running != nil && c.running.Err() == nil {
		c.startHandler(h)
	}
}

// startHandler begins to call h. The caller holds mu.
func (c *Cache) startHandler(h func(Event)) {
	ctx := c.running
	c.group.Add(1)
	go func() {
		defer c.group.Done()
		if c.WaitForSync(ctx) != nil {
			return
		}
		w, err := c.Watch(WatchOptions{Initial: true, unlimited: true})
		if err != nil {
			return // only a watch without initial state can be refused
		}
		defer w.Stop()
		for {
			events, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, ev := range events {
				h(ev)
			}
		}
	}()
}

package watchcache

import "errors"

// ErrClosed ends the watches of a cache whose kind is no longer served.
var ErrClosed = errors.New("the resource is no longer served")

// Close ends the watches of a cache and refuses new ones, with ErrClosed; readers that wait for its first list get that error, too. The
// caller ends Run.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return
	default:
		close(c.closed)
	}
	for _, w := range c.watchers.list() {
		w.end(ErrClosed)
		c.watchers.remove(w)
	}
}

// end has Next return err once what is queued has been read.
func (w *Watcher) end(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// list returns all watches.
func (ws *watchers) list() []*Watcher {
	var all []*Watcher
	for w := range ws.all {
		all = append(all, w)
	}
	for _, sets := range ws.triggered {
		for _, set := range sets {
			for w := range set {
				all = append(all, w)
			}
		}
	}
	return all
}

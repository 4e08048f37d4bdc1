package watchcache

import "context"

// Watcher delivers the events of one watch.
type Watcher struct{}

// Next waits for events and returns them in order, one or more. It returns an
// error when ctx ends and when the watch is over: ErrGone if its reader was too slow.
func (w *Watcher) Next(ctx context.Context) ([]Event, error) { return nil, ctx.Err() }

// Stop ends the watch.
func (w *Watcher) Stop() {}

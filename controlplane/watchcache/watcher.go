package watchcache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

const (
	// queueLimit is how many events a watch may be behind before it is ended.
	queueLimit = 16384
	// queueBytes is how many bytes, as etcd stores them, the objects of those events may have. One event may always wait.
	queueBytes = 16 << 20
	// bookmarkInterval is about how often a watch that asked for bookmarks gets one.
	bookmarkInterval = time.Minute
	// initialChunk is how many initial events Next returns at once.
	initialChunk = 500
)

var (
	// ErrSlow ends a watch whose reader fell too far behind; it can be resumed from the last event read.
	ErrSlow = errors.New("watch ended: its reader is too slow")
	// ErrStopped ends a watch that was stopped.
	ErrStopped = errors.New("watch stopped")
)

// WatchOptions says what a watch sees and where it begins.
type WatchOptions struct {
	// After is the revision after which events are wanted. With Initial, it is
	// left to the cache: the current state comes first, as Added events.
	After   int64
	Initial bool
	// InitialEventsEnd asks for a bookmark right after the initial events.
	InitialEventsEnd bool
	// Bookmarks asks for one about once a minute.
	Bookmarks bool
	// Prefix is that of the keys to see, empty for all.
	Prefix string
	// Filter is what objects must meet, nil for all.
	Filter func(*Object) bool
	// Trigger, if set, is implied by Filter.
	Trigger *Trigger
	// unlimited is for readers in this process, which must not be ended.
	unlimited bool
}

// Watcher delivers the events of one watch. One goroutine reads it.
type Watcher struct {
	cache     *Cache
	filter    func(*Object) bool
	trigger   *Trigger
	after     int64
	unlimited bool
	bookmarks bool

	// Only the reader touches these.
	initial      []*Object
	initialEnd   bool
	initialAt    int64
	nextBookmark time.Time

	// wake has room for one, so that push never waits.
	wake chan struct{}

	mu    sync.Mutex
	queue []Event
	// queued is the size of queue, bounded unless the watch is unlimited.
	queued int
	// backlog is set until the events of the window, with which a watch may begin, have been taken.
	backlog bool
	err     error
}

// Watch begins a watch. It returns a *GoneError if events after o.After are no longer in the window.
func (c *Cache) Watch(o WatchOptions) (*Watcher, error) {
	w := &Watcher{
		cache:     c,
		filter:    o.Filter,
		trigger:   o.Trigger,
		after:     o.After,
		unlimited: o.unlimited,
		bookmarks: o.Bookmarks,
		wake:      make(chan struct{}, 1),
	}
	w.scheduleBookmark()
	if o.Prefix != "" {
		w.filter = below(o.Prefix, o.Filter)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return nil, ErrClosed
	default:
	}
	if o.Initial {
		c.initial(w, o)
	} else {
		events, ok := c.window.after(o.After)
		if !ok {
			return nil, &GoneError{Revision: o.After, Oldest: c.window.low}
		}
		w.queue, w.backlog = events, true // bounded by the window
	}
	c.watchers.add(w)
	return w, nil
}

func below(prefix string, filter func(*Object) bool) func(*Object) bool {
	return func(o *Object) bool {
		return len(o.Key) >= len(prefix) && o.Key[:len(prefix)] == prefix && (filter == nil || filter(o))
	}
}

// initial gives the watcher the current state to begin with. The caller holds mu.
func (c *Cache) initial(w *Watcher, o WatchOptions) {
	w.after = c.revision
	w.initialAt = c.revision
	w.initialEnd = o.InitialEventsEnd
	if t := o.Trigger; t != nil && c.indexes[t.Index] != nil {
		w.initial = sorted(c.indexes[t.Index][t.Value])
		return
	}
	c.current().Ascend(o.Prefix, "", func(obj *Object) bool {
		w.initial = append(w.initial, obj)
		return true
	})
}

// push queues an event, or returns that the watch has ended.
func (w *Watcher) push(ev Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false
	}
	size := ev.size()
	if tooMuch := len(w.queue) >= queueLimit || (w.queued+size > queueBytes && len(w.queue) > 0); tooMuch && !w.unlimited {
		w.err = ErrSlow
	} else {
		w.queue = append(w.queue, ev)
		w.queued += size
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return w.err == nil
}

// Stop ends the watch; Next returns ErrStopped after it.
func (w *Watcher) Stop() {
	w.mu.Lock()
	if w.err == nil {
		w.err = ErrStopped
	}
	w.queue, w.queued = nil, 0
	w.mu.Unlock()
	w.cache.mu.Lock()
	w.cache.watchers.remove(w)
	w.cache.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next waits for events and returns them in order, one or more. It returns an
// error when ctx ends, and when the watch is over: ErrSlow, ErrStopped or ErrClosed.
func (w *Watcher) Next(ctx context.Context) ([]Event, error) {
	if events := w.nextInitial(); len(events) > 0 {
		return events, nil
	}
	for {
		events, err := w.drain()
		if len(events) > 0 {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		if ev, due := w.bookmark(); due {
			return []Event{ev}, nil
		}
		if err := w.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// Starting says whether Next still has initial events to return. Only the reader may call it.
func (w *Watcher) Starting() bool {
	if len(w.initial) > 0 || w.initialEnd {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.backlog && len(w.queue) > 0
}

// nextInitial returns the next of the initial events, and the bookmark that ends them.
func (w *Watcher) nextInitial() []Event {
	var events []Event
	n := 0
	for ; n < len(w.initial) && len(events) < initialChunk; n++ {
		if o := w.initial[n]; w.filter == nil || w.filter(o) {
			events = append(events, Event{Type: watch.Added, Object: o, Revision: o.Revision})
		}
	}
	w.initial = w.initial[n:]
	if len(w.initial) > 0 {
		return events
	}
	w.initial = nil
	if w.initialEnd {
		w.initialEnd = false
		events = append(events, Event{Type: watch.Bookmark, Revision: w.initialAt, InitialEventsEnd: true})
	}
	return events
}

// drain empties the queue and returns those of its events that concern the watch.
func (w *Watcher) drain() ([]Event, error) {
	w.mu.Lock()
	queued, err := w.queue, w.err
	w.queue, w.queued, w.backlog = nil, 0, false
	w.mu.Unlock()
	seen := queued[:0]
	for _, ev := range queued {
		if ev.Revision <= w.after && !ev.relisted {
			continue
		}
		if ev, ok := ev.seenThrough(w.filter); ok {
			seen = append(seen, ev)
		}
	}
	return seen, err
}

// bookmark returns one if it is due and nothing is queued: queued events come before it.
func (w *Watcher) bookmark() (Event, bool) {
	if !w.bookmarks || time.Now().Before(w.nextBookmark) {
		return Event{}, false
	}
	// Events are queued under the cache's lock, so that with it held an empty
	// queue means that all up to the cache's revision has been read.
	w.cache.mu.RLock()
	defer w.cache.mu.RUnlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 {
		return Event{}, false
	}
	w.scheduleBookmark()
	return Event{Type: watch.Bookmark, Revision: max(w.cache.revision, w.after)}, true
}

// scheduleBookmark spreads the bookmarks of many watches over time.
func (w *Watcher) scheduleBookmark() {
	w.nextBookmark = time.Now().Add(bookmarkInterval - rand.N(bookmarkInterval/6))
}

// wait returns when something is queued, the watch is over or a bookmark is due.
func (w *Watcher) wait(ctx context.Context) error {
	var due <-chan time.Time
	if w.bookmarks {
		timer := time.NewTimer(time.Until(w.nextBookmark))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-w.wake:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

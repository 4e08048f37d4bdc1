package watchcache

import "time"

// DefaultWindow is how many events a cache keeps at most for watches to resume from.
const DefaultWindow = 16384

// DefaultWindowBytes is how much the objects of those events may take, as etcd stores them. Decoded and encoded for clients
// they take a few times that.
const DefaultWindowBytes = 32 << 20

// windowAge is after how long an event is dropped from the window even when there is
// room, so that an idle cache does not hold old states for ever.
const windowAge = 5 * time.Minute

// window is the recent past: all events after the revision low, in order.
type window struct {
	events []Event // a ring: oldest at head
	times  []time.Time
	head   int
	count  int
	limit  int
	// bytes is the sum of the events' sizes. It is above limitBytes only where one transaction alone is.
	bytes, limitBytes int
	low               int64
}

func newWindow(limit, limitBytes int) window {
	if limit <= 0 {
		limit = DefaultWindow
	}
	if limitBytes <= 0 {
		limitBytes = DefaultWindowBytes
	}
	return window{limit: limit, limitBytes: limitBytes}
}

// reset empties the window: the past begins at revision.
func (w *window) reset(revision int64) {
	*w = window{limit: w.limit, limitBytes: w.limitBytes, low: revision}
}

func (w *window) add(ev Event) {
	now := time.Now()
	size := ev.size()
	for w.count > 0 && (w.count == w.limit || w.bytes+size > w.limitBytes || now.Sub(w.times[w.head]) > windowAge) {
		w.drop()
	}
	if w.count == len(w.events) {
		w.grow()
	}
	i := (w.head + w.count) % len(w.events)
	w.events[i], w.times[i] = ev, now
	w.count++
	w.bytes += size
}

// drop removes the oldest revision. Events of one transaction share a revision: a watch that resumes from it must have seen all of them, so
// they are removed together.
func (w *window) drop() {
	w.low = w.events[w.head].Revision
	for w.count > 0 && w.events[w.head].Revision == w.low {
		w.bytes -= w.events[w.head].size()
		w.events[w.head] = Event{}
		w.head = (w.head + 1) % len(w.events)
		w.count--
	}
}

func (w *window) grow() {
	size := min(max(2*len(w.events), 64), w.limit)
	events, times := make([]Event, size), make([]time.Time, size)
	for i := range w.count {
		from := (w.head + i) % len(w.events)
		events[i], times[i] = w.events[from], w.times[from]
	}
	w.events, w.times, w.head = events, times, 0
}

func (w *window) at(i int) *Event { return &w.events[(w.head+i)%len(w.events)] }

// after returns the events that came after revision; ok is false if some of them are no longer in the window.
func (w *window) after(revision int64) (events []Event, ok bool) {
	if revision < w.low {
		return nil, false
	}
	from := w.count
	for from > 0 && w.at(from-1).Revision > revision {
		from--
	}
	if from == w.count {
		return nil, true
	}
	events = make([]Event, 0, w.count-from)
	for i := from; i < w.count; i++ {
		events = append(events, *w.at(i))
	}
	return events, true
}

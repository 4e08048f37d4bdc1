// Package flowcontrol shares seats among the requests of many users. It owns classes of requests, called priority levels as in Kubernetes,
// each with seats of its own, so that a flooded class does not delay another one; inside a class the users take turns. It does not depend
// on HTTP, and it does not decide what a request may do.
package flowcontrol

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Why a request got no seat. Their texts are the reasons that metrics count by, in Kubernetes' words.
var (
	ErrQueueFull = errors.New("queue-full")
	ErrTimeout   = errors.New("time-out")
	ErrCancelled = errors.New("cancelled")
)

// Config says how large a level is.
type Config struct {
	Name string
	// Seats is how many seats there are. No user has more than half of them at once.
	Seats int
	// Queue is how many requests may wait for a seat.
	Queue int
	// Bytes is how much memory the bodies of requests may take; those of one user may take half of it.
	Bytes int
}

// Level is one class of requests. Its methods may be called from many goroutines.
type Level struct {
	Config

	mu sync.Mutex
	// used is the sum of the flows' used, and never above Seats; held is that of their held, and never above Bytes; waiting
	// is that of the lengths of their queues, and never above Queue.
	used, held, waiting int
	// flows are those that use, hold or wait for something, by the name of the user.
	flows map[string]*flow
	// queued are the flows with waiting requests, the one that was served last at the end.
	queued   []*flow
	rejected map[error]int
	served   int
}

// flow is what one user holds and waits for in a level.
type flow struct {
	used, held int
	queue      []*waiter
}

// waiter is a request without a seat yet. ready has room for the one value that it receives: nil when it gets its seats, or why it gets
// none.
type waiter struct {
	width int
	ready chan error
}

// NewLevel makes an empty level.
func NewLevel(config Config) *Level {
	return &Level{Config: config, flows: map[string]*flow{}, rejected: map[error]int{}}
}

// share is the part of a whole that one user may have.
func share(whole int) int { return max(whole/2, 1) }

// Enter takes seats for a request of a user, and waits for them until ctx ends if none are free. Width is how many; a width above a user's
// share is reduced to it. The caller calls leave once.
func (l *Level) Enter(ctx context.Context, user string, width int) (leave func(), err error) {
	width = max(1, min(width, share(l.Seats)))
	l.mu.Lock()
	f := l.flow(user)
	leave = func() { l.leave(user, f, width) }
	if len(l.queued) == 0 && l.fits(f, width) && l.used+width <= l.Seats {
		l.occupy(f, width)
		l.mu.Unlock()
		return leave, nil
	}
	if err := l.makeRoom(f); err != nil {
		l.rejected[err]++
		l.forget(user, f)
		l.mu.Unlock()
		return nil, err
	}
	w := &waiter{width: width, ready: make(chan error, 1)}
	if len(f.queue) == 0 {
		l.queued = append(l.queued, f)
	}
	f.queue = append(f.queue, w)
	l.waiting++
	l.dispatch()
	l.mu.Unlock()

	select {
	case err = <-w.ready:
	case <-ctx.Done():
		err = l.giveUp(ctx, f, w)
	}
	if err != nil {
		l.mu.Lock()
		l.rejected[err]++
		l.forget(user, f)
		l.mu.Unlock()
		return nil, err
	}
	return leave, nil
}

// giveUp removes a request from the queue. If it has got its seats meanwhile, it keeps them.
func (l *Level) giveUp(ctx context.Context, f *flow, w *waiter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case err := <-w.ready:
		return err
	default:
	}
	l.remove(f, slices.Index(f.queue, w))
	l.dispatch() // it may have stood before others
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimeout
	}
	return ErrCancelled
}

// makeRoom makes room in the queue for one more request of a flow: if the queue is full, the last request of the flow with the most waiting
// requests is removed. The caller holds mu.
func (l *Level) makeRoom(f *flow) error {
	if l.waiting < l.Queue {
		return nil
	}
	longest := f
	for _, other := range l.queued {
		if len(other.queue) > len(longest.queue)+1 {
			longest = other
		}
	}
	if longest == f {
		return ErrQueueFull
	}
	last := len(longest.queue) - 1
	longest.queue[last].ready <- ErrQueueFull
	l.remove(longest, last)
	return nil
}

// dispatch gives free seats to waiting requests: the next is of the user who has the fewest seats. A request that needs several is not
// overtaken until there are enough. The caller holds mu.
func (l *Level) dispatch() {
	for {
		var next *flow
		for _, f := range l.queued {
			if l.fits(f, f.queue[0].width) && (next == nil || f.used < next.used) {
				next = f
			}
		}
		if next == nil || l.used+next.queue[0].width > l.Seats {
			return
		}
		w := next.queue[0]
		l.remove(next, 0)
		if len(next.queue) > 0 {
			i := slices.Index(l.queued, next)
			l.queued = append(slices.Delete(l.queued, i, i+1), next)
		}
		l.occupy(next, w.width)
		w.ready <- nil
	}
}

// fits says whether a user may have width more seats.
func (l *Level) fits(f *flow, width int) bool { return f.used+width <= share(l.Seats) }

func (l *Level) occupy(f *flow, width int) {
	l.used += width
	f.used += width
	l.served++
}

func (l *Level) leave(user string, f *flow, width int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= width
	f.used -= width
	if len(l.queued) > 0 {
		l.dispatch()
	}
	l.forget(user, f)
}

// remove removes the waiter at i from a flow's queue.
func (l *Level) remove(f *flow, i int) {
	f.queue = slices.Delete(f.queue, i, i+1)
	l.waiting--
	if len(f.queue) == 0 {
		at := slices.Index(l.queued, f)
		l.queued = slices.Delete(l.queued, at, at+1)
	}
}

// Hold adds bytes to the memory of a user's bodies, or returns that there is no room. Release frees them.
func (l *Level) Hold(user string, bytes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.flow(user)
	if l.held+bytes > l.Bytes || f.held+bytes > share(l.Bytes) {
		l.rejected[ErrQueueFull]++
		l.forget(user, f)
		return false
	}
	l.held += bytes
	f.held += bytes
	return true
}

// Release undoes Hold.
func (l *Level) Release(user string, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.flow(user)
	l.held -= bytes
	f.held -= bytes
	l.forget(user, f)
}

func (l *Level) flow(user string) *flow {
	f := l.flows[user]
	if f == nil {
		f = &flow{}
		l.flows[user] = f
	}
	return f
}

// forget removes a flow that holds nothing and waits for nothing.
func (l *Level) forget(user string, f *flow) {
	if l.flows[user] == f && f.used == 0 && f.held == 0 && len(f.queue) == 0 {
		delete(l.flows, user)
	}
}

// Stats are what a level counts.
type Stats struct {
	// Used and Waiting are now; Served and Rejected since the beginning.
	Used, Waiting, Held, Served int
	// Rejected are by the texts of the errors above.
	Rejected map[string]int
}

// Stats returns what the level counts.
func (l *Level) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Used: l.used, Waiting: l.waiting, Held: l.held, Served: l.served, Rejected: map[string]int{}}
	for reason, n := range l.rejected {
		s.Rejected[reason.Error()] = n
	}
	return s
}

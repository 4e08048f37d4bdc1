// Package backoff says how long to wait before something that failed is tried again: a time that doubles with each failure in a
// row, up to a bound, and is up to a fifth longer by chance, so that many who wait for one thing do not come back at once.
//
// Retry tries one thing until it works. A Backoff is for loops that wait for other things as well, and for what goes on once it
// works.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is for one thing that one goroutine tries.
type Backoff struct {
	first, last time.Duration
	next        time.Duration
	failing     bool
}

// New waits for first, then twice as long each time, and for last at most, jitter apart.
func New(first, last time.Duration) *Backoff {
	return &Backoff{first: first, last: last, next: first}
}

// Reset says that it worked.
func (b *Backoff) Reset() { b.next, b.failing = b.first, false }

// Failing says whether it has failed since it last worked.
func (b *Backoff) Failing() bool { return b.failing }

// Next says that it failed, and returns how long to wait.
func (b *Backoff) Next() time.Duration {
	wait := b.next
	b.next, b.failing = min(2*wait, b.last), true
	return wait + rand.N(wait/5+1)
}

// Wait says that it failed, and waits. It returns ctx's error if that ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

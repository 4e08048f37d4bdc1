// Package backoff computes how long to wait before a retry: a time that doubles with each failure in a row, up to a bound, and
// is up to a fifth longer at random, so that many clients do not retry at the same time.
//
// Retry tries one operation until it succeeds. A Backoff is for loops that wait for other things as well, or that go on after a
// success.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is for one operation that one goroutine tries.
type Backoff struct {
	first, last time.Duration
	next        time.Duration
	failing     bool
}

// New returns a Backoff that waits for first, then twice as long each time, and at most for last, without the random part.
func New(first, last time.Duration) *Backoff {
	return &Backoff{first: first, last: last, next: first}
}

// Reset records a success.
func (b *Backoff) Reset() { b.next, b.failing = b.first, false }

// Failing says whether there was a failure since the last success.
func (b *Backoff) Failing() bool { return b.failing }

// Next records a failure, and returns how long to wait.
func (b *Backoff) Next() time.Duration {
	wait := b.next
	b.next, b.failing = min(2*wait, b.last), true
	return wait + rand.N(wait/5+1)
}

// Wait records a failure, and waits. It returns ctx's error if that ends first.
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

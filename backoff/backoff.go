// Package backoff says how long to wait before something that failed is tried again: a time that doubles with each failure in a
// row, up to a bound, and is up to a fifth longer by chance, so that many who wait for one thing do not come back at once.
//
// It tries nothing itself.
package backoff

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	jitter   = 0.2
	doubling = 63 // any number that no wait reaches before its bound
)

// Backoff is for one thing that one goroutine tries.
type Backoff struct {
	first, last time.Duration
	next        wait.Backoff
	failing     bool
}

// New waits for first, then twice as long each time, and for last at most, jitter apart.
func New(first, last time.Duration) *Backoff {
	b := &Backoff{first: first, last: last}
	b.Reset()
	return b
}

// Reset says that it worked.
func (b *Backoff) Reset() {
	b.next = wait.Backoff{Duration: b.first, Factor: 2, Jitter: jitter, Steps: doubling, Cap: b.last}
	b.failing = false
}

// Failing says whether it has failed since it last worked.
func (b *Backoff) Failing() bool { return b.failing }

// Next says that it failed, and returns how long to wait.
func (b *Backoff) Next() time.Duration {
	b.failing = true
	return b.next.Step()
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

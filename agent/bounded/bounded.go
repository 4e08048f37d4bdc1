// Package bounded runs calls that may hang in the kernel, where no deadline applies: file
// operations on a mount whose server does not answer, netlink behind another process's lock. The
// caller waits for a bounded time and gets an error that names the call.
//
// A call that is given up keeps running until the kernel returns. Calls of one key never run
// concurrently, so that a call that was given up holds one thread, and the call that undoes it runs
// after it.
package bounded

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Calls are the calls under way. The zero value is ready for use.
type Calls struct {
	mu      sync.Mutex
	running map[string]*call // by key
}

// call is one call of a key.
type call struct {
	what  string
	began time.Time
	ended chan struct{}
}

// TimeoutError says that a call was given up.
type TimeoutError struct {
	What  string        // the call
	Since time.Duration // how long it has not answered
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("timed out waiting for %s: no answer for %v", e.What, e.Since.Round(time.Millisecond))
}

// Timeout marks the error as a timeout.
func (e *TimeoutError) Timeout() bool { return true }

// Do runs f once no other call of the key runs, and returns its result. After the time limit it
// returns a TimeoutError that names the call which does not answer, this or the one before it; when
// ctx ends, ctx's error. A result of f after that is passed to discard, if set.
func Do[T any](ctx context.Context, c *Calls, key, what string, within time.Duration, f func() (T, error), discard func(T)) (T, error) {
	var none T
	timer := time.NewTimer(within)
	defer timer.Stop()
	mine := &call{what: what, ended: make(chan struct{})}
	for {
		before := c.enter(key, mine)
		if before == nil {
			break
		}
		select {
		case <-before.ended:
		case <-timer.C:
			return none, &TimeoutError{before.what, time.Since(before.began)}
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	type result struct {
		value T
		err   error
	}
	results, abandoned := make(chan result), make(chan struct{})
	go func() {
		value, err := f()
		c.leave(key, mine)
		select {
		case results <- result{value, err}:
		case <-abandoned:
			if err == nil && discard != nil {
				discard(value)
			}
		}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-timer.C:
		close(abandoned)
		return none, &TimeoutError{what, time.Since(mine.began)}
	case <-ctx.Done():
		close(abandoned)
		return none, ctx.Err()
	}
}

// Run is Do for a function that returns only an error.
func Run(ctx context.Context, c *Calls, key, what string, within time.Duration, f func() error) error {
	_, err := Do(ctx, c, key, what, within, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// enter makes mine the call of the key, or returns the one that is running.
func (c *Calls) enter(key string, mine *call) (before *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.running[key]; before != nil {
		return before
	}
	if c.running == nil {
		c.running = map[string]*call{}
	}
	mine.began = time.Now()
	c.running[key] = mine
	return nil
}

func (c *Calls) leave(key string, mine *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, key)
	close(mine.ended)
}

// Running counts the calls that have not returned.
func (c *Calls) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running)
}

// Package bounded runs what may hang in the kernel, where no deadline reaches:
// file operations on a dead mount, netlink behind somebody's lock. Who asked
// waits for a bounded time and hears what it was that did not answer.
//
// A call that is given up runs on until the kernel lets go of it. Calls of one
// key never run side by side, so that what is given up holds one thread, and
// what undoes it comes after it.
package bounded

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Calls are those under way. The zero value is ready for use.
type Calls struct {
	mu      sync.Mutex
	running map[string]*call // by key
}

// call is one of a key.
type call struct {
	what  string
	began time.Time
	ended chan struct{}
}

// TimeoutError says that a call was given up.
type TimeoutError struct {
	What  string        // that was waited for
	Since time.Duration // how long it has not answered
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("timed out waiting for %s: no answer for %v", e.What, e.Since.Round(time.Millisecond))
}

// Timeout makes the error known as one to code that asks errors for that.
func (e *TimeoutError) Timeout() bool { return true }

// Do runs f once no other call of the key runs, and returns what it returns.
// After the bound it returns a TimeoutError that names the call which does not
// answer, this or the one before it; when ctx ends, ctx's error. What f returns
// after that is handed to discard, if there is one.
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

// Run is Do for what returns nothing but an error.
func Run(ctx context.Context, c *Calls, key, what string, within time.Duration, f func() error) error {
	_, err := Do(ctx, c, key, what, within, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// enter makes mine the call of the key, or returns the one that is.
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

// Running counts the calls that have not come back.
func (c *Calls) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running)
}

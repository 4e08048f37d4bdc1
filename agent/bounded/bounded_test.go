package bounded

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A call that hangs is given up after the time limit and named in the next caller's error; the call that undoes it runs
// after it, and its late result is discarded.
func TestCallThatHangs(t *testing.T) {
	var calls Calls
	release, discarded := make(chan struct{}), make(chan int, 1)
	var late *TimeoutError
	_, err := Do(t.Context(), &calls, "k", "the dead mount", time.Millisecond, func() (int, error) {
		<-release
		return 7, nil
	}, func(n int) { discarded <- n })
	if !errors.As(err, &late) || late.What != "the dead mount" {
		t.Fatalf("the call: %v", err)
	}
	if err := Run(t.Context(), &calls, "k", "its end", time.Millisecond, func() error { t.Error("ran beside"); return nil }); !errors.As(err, &late) || late.What != "the dead mount" {
		t.Errorf("the next call of the key: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(gone, &calls, "k", "its end", time.Minute, func() error { t.Error("ran beside"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context has ended: %v", err)
	}
	if err := Run(t.Context(), &calls, "other", "another", time.Minute, func() error { return nil }); err != nil {
		t.Errorf("a call of another key: %v", err)
	}
	if n := calls.Running(); n != 1 {
		t.Errorf("%d calls run, want the one that hangs", n)
	}
	undone := make(chan error, 1)
	go func() {
		undone <- Run(t.Context(), &calls, "k", "its end", time.Minute, func() error { return errors.New("its own") })
	}()
	close(release)
	if n := <-discarded; n != 7 {
		t.Errorf("discarded %d", n)
	}
	if err := <-undone; err == nil || err.Error() != "its own" {
		t.Errorf("what undoes it: %v", err)
	}
	if n := calls.Running(); n != 0 {
		t.Errorf("%d calls run at the end", n)
	}
}

package backoff

import (
	"context"
	"testing"
	"time"
)

func TestWaitsDoubleUpToABound(t *testing.T) {
	b := New(100*time.Millisecond, time.Second)
	for range 2 { // again after a success
		if b.Failing() {
			t.Error("failing before the first failure")
		}
		for i, want := range []time.Duration{100, 200, 400, 800, 1000, 1000, 1000} {
			want *= time.Millisecond
			if got := b.Next(); got < want || got > want+want/5 {
				t.Errorf("wait %d is %s, want %s and up to a fifth more", i, got, want)
			}
		}
		if !b.Failing() {
			t.Error("not failing after failures")
		}
		b.Reset()
	}
}

func TestTheBoundHoldsForGood(t *testing.T) {
	b := New(time.Millisecond, time.Hour)
	for range 200 {
		if got := b.Next(); got <= 0 || got > time.Hour+time.Hour/5 {
			t.Fatalf("a wait of %s", got)
		}
	}
}

func TestWaitersDoNotComeBackAtOnce(t *testing.T) {
	waits := map[time.Duration]bool{}
	for range 100 {
		waits[New(time.Second, time.Minute).Next()] = true
	}
	if len(waits) < 50 {
		t.Errorf("100 first waits have %d lengths", len(waits))
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(time.Hour, time.Hour).Wait(ctx); err != context.Canceled {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	if err := New(time.Nanosecond, time.Hour).Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

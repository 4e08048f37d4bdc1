package silence

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// A process is to be killed once its patience is over, not before, and not for the end of who asks.
func TestClock(t *testing.T) {
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	patient := NewClock("it", time.Millisecond, time.Hour, slog.New(slog.DiscardHandler))
	if patient.Ask(t.Context(), silent) {
		t.Error("killed before its time")
	}
	over := NewClock("it", time.Millisecond, time.Millisecond, slog.New(slog.DiscardHandler))
	if over.Ask(t.Context(), func(context.Context) error { return nil }) {
		t.Error("killed though it answers")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if over.Ask(gone, func(context.Context) error { return errors.New("gone") }) {
		t.Error("killed because the agent leaves")
	}
	if !over.Ask(t.Context(), silent) {
		t.Error("not killed though it does not answer")
	}
}

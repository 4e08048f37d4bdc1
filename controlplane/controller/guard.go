package controller

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

type failureKey struct{}

// WithFailure returns a context that ends when the first part of a control loop fails, so
// that all parts end; context.Cause says why.
func WithFailure(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, fail := context.WithCancelCause(ctx)
	return context.WithValue(ctx, failureKey{}, fail), func() { fail(context.Canceled) }
}

// Fail reports that a part of a control loop has ended although its context has not. Its
// work is no longer done, so the process must not go on as the leader.
func Fail(ctx context.Context, err error) {
	slog.Error("Control loop failed", "err", err)
	if fail, ok := ctx.Value(failureKey{}).(context.CancelCauseFunc); ok {
		fail(err)
	}
}

// Guard runs a part of a control loop. A panic in it is a failure of the named loop;
// under a context that is not of WithFailure it stays a panic.
func Guard(ctx context.Context, loop string, part func()) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if ctx.Value(failureKey{}) == nil {
			panic(v)
		}
		slog.Error("Control loop panicked", "loop", loop, "panic", v, "stack", string(debug.Stack()))
		Fail(ctx, fmt.Errorf("control loop %q panicked: %v", loop, v))
	}()
	part()
}

// Go runs a guarded part with wg.Go.
func Go(ctx context.Context, wg *sync.WaitGroup, loop string, part func()) {
	wg.Go(func() { Guard(ctx, loop, part) })
}

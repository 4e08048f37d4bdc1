package storage

import (
	"context"
	"errors"
	"slices"
)

// ErrFenced says that a commit was made under a fence that another has replaced. Nothing was written.
var ErrFenced = errors.New("another server leads now: this one's writes as leader are refused")

type fenceKey struct{}

type fence struct {
	guard Guard
	lost  func()
}

// WithFence makes the guard a condition of every commit under the context: whoever replaces the guard's key refuses all of them from then
// on, however late they come. It is by the key's revision that they are refused, not by any clock. lost is called when a commit was refused.
func WithFence(ctx context.Context, guard Guard, lost func()) context.Context {
	return context.WithValue(ctx, fenceKey{}, &fence{guard: guard, lost: lost})
}

// fenced adds the guard of the context's fence, and returns the fence.
func fenced(ctx context.Context, guards []Guard) ([]Guard, *fence) {
	f, _ := ctx.Value(fenceKey{}).(*fence)
	if f == nil {
		return guards, nil
	}
	return append(slices.Clip(guards), f.guard), f
}

// refused says whether a conflict is with the fence.
func (f *fence) refused(conflict *ConflictError) bool {
	if f == nil || !slices.Contains(conflict.Keys, f.guard.Key) {
		return false
	}
	f.lost()
	return true
}

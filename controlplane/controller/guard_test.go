package controller_test

import (
	"context"
	"strings"
	"testing"

	"github.com/skep-io/skep/controlplane/controller"
)

// A panic of one worker ends all loops with an error that names the loop.
func TestPanicEndsTheLoops(t *testing.T) {
	ctx, stop := controller.WithFailure(t.Context())
	defer stop()
	q := controller.NewQueue[string]("shaky")
	q.Add("key")
	q.Run(ctx, 4, func(context.Context, string) error { panic("a bug") }) // returns, since the context ends
	if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), `"shaky" panicked: a bug`) {
		t.Errorf("the loops end with %v", err)
	}
}

// Without anyone to end the loops a panic must not be swallowed.
func TestPanicStaysAPanic(t *testing.T) {
	defer func() {
		if v := recover(); v != "a bug" {
			t.Errorf("recovered %v", v)
		}
	}()
	controller.Guard(t.Context(), "shaky", func() { panic("a bug") })
}

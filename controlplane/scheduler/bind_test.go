package scheduler

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// A panic while bindings are written ends all loops, with an error that names the scheduler.
func TestPanicOfBinderEndsTheLoops(t *testing.T) {
	ctx, stop := controller.WithFailure(t.Context())
	defer stop()
	b := newBinder(&Scheduler{}) // writes to a registry that is not there
	b.add(ctx, binding{request: &request{pod: &corev1.Pod{}}, node: "n"})
	b.run(ctx)
	if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), `"scheduler" panicked`) {
		t.Errorf("the loops end with %v", err)
	}
}

package event

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// A recorder that panics ends all loops, with an error that names it.
func TestPanicOfRecorderEndsTheLoops(t *testing.T) {
	ctx, stop := controller.WithFailure(t.Context())
	defer stop()
	r := NewRecorder(nil, "shaky") // writes to a registry that is not there
	r.EventfRef(corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, corev1.EventTypeNormal, "Reason", "message")
	r.Run(ctx)
	if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), `"events of shaky" panicked`) {
		t.Errorf("the loops end with %v", err)
	}
}

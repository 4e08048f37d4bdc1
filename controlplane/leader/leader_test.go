package leader_test

import (
	"context"
	"errors"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/leader"
)

// A leader whose work has failed ends with the reason and releases the lease, so that another leads at once and not only when the lease has
// expired.
func TestFailedLeaderGivesTheLeaseUp(t *testing.T) {
	registry := controlplanetest.Start(t)
	dead := errors.New("control loop \"endpoints\" ended")
	if err := leader.Run(t.Context(), registry, "first", func(context.Context) error { return dead }); !errors.Is(err, dead) {
		t.Fatalf("the leader ends with %v, want %v", err, dead)
	}
	obj, err := registry.Get(t.Context(), kinds.Leases, metav1.NamespaceSystem, leader.LeaseName, "")
	if err != nil {
		t.Fatal(err)
	}
	if holder := ptr.Deref(obj.(*coordinationv1.Lease).Spec.HolderIdentity, ""); holder != "" {
		t.Errorf("the lease is held by %q, want nobody", holder)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leading := make(chan struct{})
	err = leader.Run(ctx, registry, "second", func(ctx context.Context) error {
		close(leading)
		cancel()
		<-ctx.Done()
		return nil
	})
	select {
	case <-leading:
	default:
		t.Errorf("nobody took over: %v", err)
	}
}

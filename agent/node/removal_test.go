package node

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

func removedError() error {
	err := apierrors.NewUnauthorized("node removed")
	err.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: causeRemoved}}}
	return err
}

// A node whose certificate is refused as removed reports that once, and sends nothing more; after another refusal it tries again.
func TestRemovedNodeStaysQuiet(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	var gone, asked atomic.Int32
	client.PrependReactor("*", "*", func(ktesting.Action) (bool, runtime.Object, error) {
		asked.Add(1)
		if gone.Load() == 0 {
			return true, nil, apierrors.NewUnauthorized("for a moment")
		}
		return true, nil, removedError()
	})
	var removed atomic.Int32
	reached := make(chan struct{})
	n, err := New(Config{
		Client: client, Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.11")}, StateDir: t.TempDir(), Version: "test",
		RuntimeVersion: func(context.Context) (string, error) { return "1", nil },
		Removed: func() {
			if removed.Add(1) == 1 {
				close(reached)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for asked.Load() < 4 && ctx.Err() == nil { // lease and status are tried again
		<-time.NewTimer(5 * time.Millisecond).C
	}
	if removed.Load() != 0 {
		t.Error("a refusal without the cause is taken for a removal")
	}
	gone.Store(1)
	select {
	case <-reached:
	case <-ctx.Done():
		t.Fatal("the removal is not noticed")
	}
	before := asked.Load()
	<-time.NewTimer(3 * leaseInterval).C // the lease would be renewed three times
	if more := asked.Load() - before; more > 1 {
		t.Errorf("asked %d times after the removal, want the other of lease and status at most", more)
	}
	cancel()
	if err := <-done; err != nil || removed.Load() != 1 {
		t.Errorf("Run: %v; called %d times", err, removed.Load())
	}
	if _, err := n.Register(t.Context()); err == nil || !err.(*RefusedError).Removed {
		t.Errorf("registering: %v", err)
	}
}

// A node that is refused as unknown, as after a restore from before it joined, is not a removed one: it reports that once, keeps
// trying, and continues when it is accepted again.
func TestUnknownNodeIsNotRemoved(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	var known atomic.Bool
	var refused, unknown, removed atomic.Int32
	client.PrependReactor("*", "*", func(ktesting.Action) (bool, runtime.Object, error) {
		if known.Load() {
			return false, nil, nil
		}
		refused.Add(1)
		err := apierrors.NewUnauthorized("not known")
		err.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: causeUnknown}}}
		return true, nil, err
	})
	renewed := make(chan struct{}, 1)
	n, err := New(Config{
		Client: client, Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.11")}, StateDir: t.TempDir(), Version: "test",
		RuntimeVersion: func(context.Context) (string, error) { return "1", nil },
		Removed:        func() { removed.Add(1) }, Unknown: func() { unknown.Add(1) },
		Renewed: func(time.Time) {
			select {
			case renewed <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var refusal *RefusedError
	if _, err := n.Register(t.Context()); !errors.As(err, &refusal) || !refusal.Unknown || refusal.Removed {
		t.Errorf("registering: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for refused.Load() < 6 && ctx.Err() == nil { // lease and status are tried again and again
		<-time.NewTimer(5 * time.Millisecond).C
	}
	if unknown.Load() != 1 || removed.Load() != 0 {
		t.Errorf("said unknown %d times, removed %d times; want 1 and 0", unknown.Load(), removed.Load())
	}
	known.Store(true)
	select {
	case <-renewed:
	case <-ctx.Done():
		t.Error("the lease is not renewed once the node is known again")
	}
	cancel()
	if err := <-done; err != nil || removed.Load() != 0 {
		t.Errorf("Run: %v; removed %d times", err, removed.Load())
	}
}

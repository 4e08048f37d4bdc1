package apiserver

import (
	"net/http"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/pki"
)

// One node writes at most so many events, however large, and takes nothing from the others.
func TestEventsAreBoundedByIdentity(t *testing.T) {
	now := time.Now()
	limits := newEventLimits(shared.registry)
	limits.now = func() time.Time { return now }
	write := func(node string, size int64) error {
		id := identity{name: pki.NodePrefix + node, groups: []string{pki.NodesGroup}}
		return limits.admit(&call{Request: &http.Request{Method: http.MethodPost, ContentLength: size}, id: id, target: target{resource: "events"}})
	}
	count := func(node string, size int64) (n int) {
		for ; write(node, size) == nil; n++ {
		}
		return n
	}
	if n := count("small", 500); n != nodeEventBurst {
		t.Errorf("%d events at once, want %d", n, nodeEventBurst)
	}
	if err := write("small", 500); !apierrors.IsTooManyRequests(err) {
		t.Errorf("one more: %v, want 429", err)
	}
	if n := count("large", 100<<10); n > nodeEventBurst/100 {
		t.Errorf("%d events of 100 KiB at once", n)
	}
	if err := write("other", 500); err != nil {
		t.Errorf("another node: %v", err)
	}
	now = now.Add(10 * time.Second)
	if n := count("small", 500); n != 10*nodeEventRate {
		t.Errorf("after 10 s %d events more, want %d", n, 10*nodeEventRate)
	}
}

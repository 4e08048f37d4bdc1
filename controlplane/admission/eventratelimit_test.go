package admission

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skep-io/skep/controlplane/resource"
)

// The events of one node are limited in number and size, and do not use up the limits of other nodes.
func TestEventsAreBoundedByIdentity(t *testing.T) {
	events := &resource.Kind{GVK: corev1.SchemeGroupVersion.WithKind("Event"), Resource: "events"}
	now := time.Now()
	limit := newEventRateLimit(resource.New(nil, resource.Config{}, []*resource.Kind{events}), events)
	limit.now = func() time.Time { return now }
	write := func(node string, size int) error {
		event := &corev1.Event{Message: strings.Repeat("x", size)}
		u := &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{user.NodesGroup}}
		return limit.Admit(t.Context(), admission.NewAttributesRecord(event, nil, events.GVK, "", "", events.GroupVersionResource(), "", admission.Create, nil, false, u), nil)
	}
	count := func(node string, size int) (n int) {
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

package admission

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/resource"
)

// Events expire after an hour, so that what one identity may write in an hour bounds how much of etcd it can fill. A write uses a token for
// each eventUnit, or part of one, of the event's size.
const (
	eventUnit = 1 << 10

	// A node's agent correlates its events, as kubelet does: in the long run it needs far fewer than 5 a second. An hour of that is 18 MiB.
	nodeEventRate, nodeEventBurst = 5, 300
	// Administrators' tools and control loops.
	eventRate, eventBurst = 50, 3000

	// maxEvents is how many events there may be at once, of all writers.
	maxEvents = 200_000
	// maxEventWriters bounds the number of writers whose rate is kept; above it all limits are reset.
	maxEventWriters = 10_000
)

// eventRateLimit limits the rate of each identity's events.
type eventRateLimit struct {
	*admission.Handler
	events   *resource.Kind
	registry *resource.Registry
	now      func() time.Time

	mu      sync.Mutex
	writers map[string]*rate.Limiter
}

func newEventRateLimit(r *resource.Registry, events *resource.Kind) *eventRateLimit {
	return &eventRateLimit{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		events:  events, registry: r, now: time.Now, writers: map[string]*rate.Limiter{},
	}
}

// Admit returns a 429 for a write of an event above the limits.
func (p *eventRateLimit) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !of(a, p.events) || a.IsDryRun() {
		return nil
	}
	u, size := a.GetUserInfo(), a.GetObject().(*corev1.Event).Size()
	if !p.writer(u).AllowN(p.now(), 1+size/eventUnit) {
		return apierrors.NewTooManyRequestsError(fmt.Sprintf("limit reached on type User for key %s", u.GetName()))
	}
	if a.GetOperation() == admission.Create && p.registry.Cache(p.events).Len() >= maxEvents {
		return apierrors.NewTooManyRequestsError(fmt.Sprintf("limit reached on type Server: there are %d events", maxEvents))
	}
	return nil
}

func (p *eventRateLimit) writer(u user.Info) *rate.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.writers[u.GetName()]
	if w == nil {
		if len(p.writers) >= maxEventWriters {
			clear(p.writers)
		}
		w = rate.NewLimiter(eventRate, eventBurst)
		if identity.Node(u) != "" {
			w = rate.NewLimiter(nodeEventRate, nodeEventBurst)
		}
		p.writers[u.GetName()] = w
	}
	return w
}

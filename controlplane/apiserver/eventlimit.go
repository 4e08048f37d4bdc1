package apiserver

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Events live for an hour, so that what one identity may write in an hour bounds what it can fill etcd with. A write takes a
// token for each eventUnit of its body that it has begun.
const (
	eventUnit = 1 << 10

	// A node's agent correlates its events, as kubelet: it needs far less than 5 a second for long. An hour of it is 18 MiB.
	nodeEventRate, nodeEventBurst = 5, 300
	// Administrators' tools and the control loops of others.
	eventRate, eventBurst = 50, 3000

	// maxEvents is how many there may be at once, whoever wrote them.
	maxEvents = 200_000
	// maxEventWriters bounds the memory of who wrote; beyond it all begin anew.
	maxEventWriters = 10_000
	// unknownEventSize is taken for the size of a body that does not say its own.
	unknownEventSize = 16 << 10
)

// eventLimits hold each identity's events within bounds, as kube-apiserver's EventRateLimit does.
type eventLimits struct {
	registry *resource.Registry
	now      func() time.Time

	mu      sync.Mutex
	writers map[string]*rate.Limiter
}

func newEventLimits(registry *resource.Registry) *eventLimits {
	return &eventLimits{registry: registry, now: time.Now, writers: map[string]*rate.Limiter{}}
}

// admit is a 429 for a write of an event that is too much.
func (l *eventLimits) admit(c *call) error {
	if c.resource != "events" || c.Method != http.MethodPost && c.Method != http.MethodPut && c.Method != http.MethodPatch {
		return nil
	}
	size := c.ContentLength
	if size < 0 {
		size = unknownEventSize
	}
	if !l.writer(c.id).AllowN(l.now(), 1+int(size/eventUnit)) {
		return apierrors.NewTooManyRequestsError(fmt.Sprintf("limit reached on type User for key %s", c.id.name))
	}
	if c.Method == http.MethodPost && l.registry.Cache(kinds.Events).Len() >= maxEvents {
		return apierrors.NewTooManyRequestsError(fmt.Sprintf("limit reached on type Server: there are %d events", maxEvents))
	}
	return nil
}

func (l *eventLimits) writer(id identity) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.writers[id.name]
	if w == nil {
		if len(l.writers) >= maxEventWriters {
			clear(l.writers)
		}
		w = rate.NewLimiter(eventRate, eventBurst)
		if id.node() != "" {
			w = rate.NewLimiter(nodeEventRate, nodeEventBurst)
		}
		l.writers[id.name] = w
	}
	return w
}

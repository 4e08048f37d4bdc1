package services

import (
	"context"
	"strconv"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// applied follows up to which revision of endpoint slices the data plane's maps are up to date.
type applied struct {
	mu        sync.Mutex
	seen      uint64 // the newest revision of a slice that the watch has shown
	withdrawn uint64 // the newest of those with an endpoint that is not ready
	// By service: what the watch has shown of its slices and the plane has not been given. The services are queued, and others before
	// them, so a newer revision may have been given to the plane already.
	waiting map[string]*shown
	current *shown   // of the service that is given at this moment
	given   []change // since last asked
	work    chan struct{}
}

// shown is what the watch has shown of a service's slices.
type shown struct {
	oldest  uint64 // revision; 0: of none with a number
	changes []change
}

func newApplied() *applied {
	return &applied{waiting: map[string]*shown{}, work: make(chan struct{}, 1)}
}

// see records a slice that the watch has shown. Its service must be queued after that.
func (a *applied) see(s *discoveryv1.EndpointSlice, changes ...change) {
	revision := revisionOf(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.waiting[sliceService(s)]
	if of == nil {
		of = &shown{oldest: revision}
		a.waiting[sliceService(s)] = of
	}
	of.changes = append(of.changes, changes...)
	a.seen = max(a.seen, revision)
	for i := range s.Endpoints {
		if !ptr.Deref(s.Endpoints[i].Conditions.Ready, true) {
			a.withdrawn = max(a.withdrawn, revision)
		}
	}
}

// giving gives the plane a service by calling give, and with it all that see has recorded of its slices before. It is never called twice
// at once.
func (a *applied) giving(service string, give func()) {
	a.mu.Lock()
	a.current = a.waiting[service]
	delete(a.waiting, service)
	a.mu.Unlock()
	give()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current == nil {
		return
	}
	a.given = append(a.given, a.current.changes...)
	a.current = nil
	a.wake()
}

func (a *applied) wake() {
	select {
	case a.work <- struct{}{}:
	default:
	}
}

// now returns up to which revision the plane has been given all slices, the newest with an endpoint that is not ready, and the changes
// that it has been given since it was asked last.
func (a *applied) now() (revision, withdrawn uint64, changes []change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	revision = a.seen
	before := func(s *shown) {
		if s != nil && s.oldest > 0 {
			revision = min(revision, s.oldest-1)
		}
	}
	before(a.current)
	for _, s := range a.waiting {
		before(s)
	}
	changes, a.given = a.given, nil
	return revision, a.withdrawn, changes
}

// followApplied reports each revision once the maps have it.
func (w *Watcher) followApplied(ctx context.Context) {
	reported := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.applied.work:
		}
		revision, withdrawn, changes := w.applied.now()
		if revision <= reported && len(changes) == 0 {
			continue
		}
		if err := w.cfg.Plane.Flush(ctx); err != nil {
			return // ctx ended, or the plane was closed
		}
		w.latency.applied(changes)
		if revision <= reported {
			continue
		}
		if w.cfg.Applied != nil {
			w.cfg.Applied(revision, withdrawn > reported)
		}
		reported = revision
	}
}

// revisionOf is a slice's resource version, which is a number that grows over all slices; 0 if it has none.
func revisionOf(s *discoveryv1.EndpointSlice) uint64 {
	revision, err := strconv.ParseUint(s.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return revision
}

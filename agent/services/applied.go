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
	withdrawn bool   // one since the last report has an endpoint that is not ready
	work      chan struct{}
}

func newApplied() *applied { return &applied{work: make(chan struct{}, 1)} }

// see records a slice that the watch has shown.
func (a *applied) see(s *discoveryv1.EndpointSlice) {
	revision := revisionOf(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = max(a.seen, revision)
	for i := range s.Endpoints {
		if !ptr.Deref(s.Endpoints[i].Conditions.Ready, true) {
			a.withdrawn = true
		}
	}
}

// wake has follow report what was seen until now.
func (a *applied) wake() {
	select {
	case a.work <- struct{}{}:
	default:
	}
}

// follow reports each revision once the maps have it.
func (w *Watcher) followApplied(ctx context.Context) {
	reported := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.applied.work:
		}
		w.applied.mu.Lock()
		seen, withdrawn := w.applied.seen, w.applied.withdrawn
		w.applied.withdrawn = false
		w.applied.mu.Unlock()
		if seen <= reported {
			continue
		}
		if err := w.cfg.Plane.Flush(ctx); err != nil {
			return // ctx ended, or the plane was closed
		}
		reported = seen
		w.cfg.Applied(seen, withdrawn)
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

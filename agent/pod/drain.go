package pod

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Endpoints knows what the cluster has been told about a pod of this node.
type Endpoints interface {
	// Drain makes the pod the last choice of this node's clients, and returns
	// when the API says so to all other nodes, or ctx ends. restored takes back
	// what it asked of this node.
	Drain(ctx context.Context, pod types.UID) (restored func())
}

// drainLimit bounds what a deletion waits for others to look elsewhere: a control
// plane that is away must not keep pods alive. Usually the wait is some tens of
// milliseconds; a control plane whose disk is slow needs more.
const drainLimit = 2 * time.Second

// drain lets the pod's services turn away from it while it still answers, and
// says whether that is over. A signal sent before would end programs to which
// nodes that have not heard of the deletion still send connections. The pod stays
// in the maps as what serves if nothing else does, so its readiness is still
// asked for; what would end its containers for their health is not.
func (w *worker) drain() (over bool) {
	switch {
	case w.drained:
		return true
	case w.gone || !w.started():
		w.drained = true
		return true
	case w.draining:
		return false
	}
	w.draining = true
	for _, c := range w.containers {
		if c.mortal != nil {
			c.mortal()
		}
	}
	limit := min(drainLimit, w.gracePeriod()/2)
	w.beside(func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		undrain := w.pods.cfg.Endpoints.Drain(ctx, types.UID(w.uid))
		return func() { w.draining, w.drained, w.undrain = false, true, undrain }
	})
	return false
}

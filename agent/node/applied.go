package node

import (
	"sync/atomic"
	"time"
)

// applied is the revision up to which the node's service maps have all endpoint slices. The lease reports it.
type applied struct {
	revision atomic.Uint64
	nodes    atomic.Int64
	hurry    chan struct{} // one place: it is waited for
}

const (
	// soonest is the shortest time between renewals, and perNode what each node of the cluster adds to it, so that the nodes together
	// renew no more than some hundred times a second more than they do anyhow.
	soonest = 10 * time.Millisecond
	perNode = 2 * time.Millisecond
)

// gap is how long after the last renewal the next may begin if it is waited for.
func (a *applied) gap() time.Duration {
	return min(soonest+time.Duration(a.nodes.Load())*perNode, leaseInterval)
}

// SetApplied records the revision. Hurry: pods that end may wait for this node to report it, so the lease is renewed earlier, in a cluster
// of so many nodes.
func (n *Node) SetApplied(revision uint64, hurry bool, nodes int) {
	n.applied.revision.Store(revision)
	n.applied.nodes.Store(int64(nodes))
	if !hurry {
		return
	}
	select {
	case n.applied.hurry <- struct{}{}:
	default:
	}
}

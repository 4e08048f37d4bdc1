package node

import (
	"slices"
	"sync"
	"time"
)

// health holds which nodes are silent. All its times are this process's own observations
// on its own clock: a node's clock is not trusted, and time in which this process did not
// run is not counted as a node's silence.
type health struct {
	grace time.Duration

	mu     sync.Mutex
	nodes  map[string]*nodeState
	ticked time.Time // the last look; zero: none yet
}

// source is the object that a sign of life comes from.
type source int

const (
	fromLease source = iota
	fromStatus
)

// nodeState is one node's.
type nodeState struct {
	seen   time.Time
	silent bool
	// signs is what was last seen of the node, per source: a change of one ends its silence.
	signs map[source]string
	zone  string
	// accused is when statements that the node cannot be reached were last received, and evidence identifies them; zero: there are none.
	accused  time.Time
	evidence string
}

func newHealth(grace time.Duration) *health {
	return &health{grace: grace, nodes: map[string]*nodeState{}}
}

// watchNode begins to expect signs of a node. Its grace runs from now.
func (h *health) watchNode(name, zone string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes[name] == nil {
		h.nodes[name] = &nodeState{seen: now, signs: map[source]string{}}
	}
	h.nodes[name].zone = zone
}

func (h *health) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nodes, name)
}

// observe records a sign of life, and says whether it ends a silence.
func (h *health) observe(name string, from source, sign string, now time.Time) (returned bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.nodes[name]
	if p == nil || sign == p.signs[from] {
		return false
	}
	p.signs[from] = sign
	if now.After(p.seen) {
		p.seen = now
	}
	returned = p.silent
	p.silent = false
	return returned
}

// isSilent says whether a node has been declared silent.
func (h *health) isSilent(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.nodes[name]
	return p != nil && p.silent
}

// extend gives all nodes time until then: this process has just begun, or did not run for a while.
func (h *health) extend(until time.Time) {
	for _, p := range h.nodes {
		if p.seen.Before(until) && !p.silent {
			p.seen = until
		}
	}
}

// start gives every node twice the grace from now: nodes have to connect to this process
// first.
func (h *health) start(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ticked = now
	h.extend(now.Add(h.grace))
}

// overdue returns the nodes whose grace has passed and that are not yet declared silent.
// If the time since the last look is so long that this process must have been stopped or
// starved, it returns none and all nodes get time from now. Held are the zones of lost.
func (h *health) overdue(now time.Time) (names []string, held map[string]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gap := now.Sub(h.ticked)
	h.ticked = now
	if gap > h.grace/2 {
		h.extend(now)
		return nil, nil
	}
	for name, p := range h.nodes {
		if !p.silent && now.Sub(p.seen) > h.grace {
			names = append(names, name)
		}
	}
	lost, held := h.lost(now)
	return append(names, lost...), held
}

// isOverdue says whether a node's grace has passed and it is not yet declared silent. Early: it has not passed, but other nodes cannot
// reach it either.
func (h *health) isOverdue(name string, now time.Time) (overdue, early bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.nodes[name]
	if p == nil || p.silent {
		return false, false
	}
	if now.Sub(p.seen) > h.grace {
		return true, false
	}
	if p.accused.IsZero() || now.Sub(h.ticked) > earlyAfter/2 {
		return false, false
	}
	lost, _ := h.lost(now)
	early = slices.Contains(lost, name)
	return early, early
}

// declare marks a node as silent.
func (h *health) declare(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.nodes[name]; p != nil {
		p.silent = true
	}
}

// disruption is how much of the cluster is silent.
type disruption int

const (
	// noDisruption: few nodes are silent. Their pods are evicted.
	noDisruption disruption = iota
	// partialDisruption: most nodes are silent, maybe because of the network between. Evictions wait.
	partialDisruption
	// fullDisruption: all nodes are silent. This process is cut off, or there is no node for the pods.
	fullDisruption
)

// A disruption is partial from this percentage and this number of silent nodes on.
const (
	partialShare   = 55
	partialAtLeast = 3
)

// disrupted counts nodes as silent that have missed half of the grace too: nodes
// that are lost together are noticed one after the other.
func (h *health) disrupted(now time.Time) disruption {
	h.mu.Lock()
	defer h.mu.Unlock()
	silent := 0
	for _, p := range h.nodes {
		if p.silent || now.Sub(p.seen) > h.grace/2 {
			silent++
		}
	}
	switch {
	case silent == len(h.nodes):
		return fullDisruption
	case silent >= partialAtLeast && silent*100 > partialShare*len(h.nodes):
		return partialDisruption
	}
	return noDisruption
}

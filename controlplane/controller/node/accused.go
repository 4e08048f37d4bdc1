package node

import (
	"time"

	"github.com/skep-io/skep/witness"
)

// earlyAfter is how long a node that other nodes cannot reach may not renew its lease before it is declared silent: a lease is renewed
// every second.
const earlyAfter = 1250 * time.Millisecond

// accuse records that other nodes cannot reach a node, and says whether that is news. The same evidence counts once: it expires
// unless it is renewed. Empty evidence: they reach it.
func (h *health) accuse(name, evidence string, now time.Time) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.nodes[name]
	if p == nil || p.evidence == evidence {
		return false
	}
	p.evidence, p.accused = evidence, time.Time{}
	if evidence != "" {
		p.accused = now
	}
	return evidence != ""
}

// isAccused says whether statements that the node cannot be reached count now, and earlyIn is how long it takes until the lease confirms
// them, unless it is renewed.
func (h *health) isAccused(name string, now time.Time) (accused bool, earlyIn time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.nodes[name]
	if p == nil || !p.accusedAt(now) {
		return false, 0
	}
	return true, earlyAfter - now.Sub(p.seen) + time.Millisecond
}

func (p *nodeState) accusedAt(now time.Time) bool {
	return !p.accused.IsZero() && now.Sub(p.accused) <= witness.Validity
}

// lost returns the nodes that others cannot reach and that have not renewed their leases since, and the zones in which so many
// seem gone that the network between is a likelier cause: of these only the grace decides.
func (h *health) lost(now time.Time) (names []string, held map[string]int) {
	accused := map[string]bool{}
	for name, p := range h.nodes {
		if !p.silent && p.accusedAt(now) && now.Sub(p.seen) > earlyAfter {
			accused[name] = true
		}
	}
	if len(accused) == 0 {
		return nil, nil
	}
	nodes := make([]witness.Node, 0, len(h.nodes))
	for name, p := range h.nodes {
		nodes = append(nodes, witness.Node{Name: name, Zone: p.zone, Down: p.silent})
	}
	ejection := witness.Eject("", nodes, func(name string) bool { return accused[name] })
	return ejection.Out, ejection.Held
}

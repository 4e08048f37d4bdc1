package podnet

import (
	"fmt"
	"net/netip"
	"slices"
)

// claim is a range that a peer says its pods have.
type claim struct {
	peer    Peer
	cidr    netip.Prefix
	way     way
	current bool // the installed route leads to this peer
	reason  string
}

// inCluster says why a range that a peer claims gets no route here whoever else claims it, or nothing: other hosts set their ranges
// by the API, and a route to one that is not theirs would send them packets for others.
func (f *family) inCluster(cidr netip.Prefix) string {
	switch {
	case cidr.Overlaps(f.pods):
		return fmt.Sprintf("it overlaps this host's own pod range %s", f.pods)
	case !within(cidr, f.ranges()):
		return fmt.Sprintf("it is outside of the cluster's pod ranges %s", f.ranges())
	}
	return ""
}

// settle refuses ranges that several peers claim. If the installed route leads to one of them, that one keeps it: a later claim
// removes nothing.
func settle(claims []*claim) {
	slices.SortStableFunc(claims, func(a, b *claim) int {
		if c := a.cidr.Addr().Compare(b.cidr.Addr()); c != 0 {
			return c
		}
		return a.cidr.Bits() - b.cidr.Bits()
	})
	rivals := map[*claim][]*claim{}
	var around []*claim // those that the next may lie in
	for _, c := range claims {
		around = slices.DeleteFunc(around, func(o *claim) bool { return !o.cidr.Contains(c.cidr.Addr()) })
		for _, o := range around {
			if o.peer.Name != c.peer.Name {
				rivals[o], rivals[c] = append(rivals[o], c), append(rivals[c], o)
			}
		}
		around = append(around, c)
	}
	for c, others := range rivals {
		isCurrent := func(o *claim) bool { return o.current }
		if !c.current || slices.ContainsFunc(others, isCurrent) {
			c.reason = fmt.Sprintf("node %s claims %s too", others[0].peer.Name, others[0].cidr)
		}
	}
}

// refuse logs each refused claim once, for as long as it is refused.
func (n *Network) refuse(refused []*claim) {
	now := map[string]bool{}
	for _, c := range refused {
		key := c.peer.Name + " " + c.cidr.String() + " " + c.reason
		if now[key] = true; !n.refused[key] {
			n.log.Error("a node's pod range is ignored: no route is made to it", "node", c.peer.Name, "range", c.cidr, "reason", c.reason)
		}
	}
	n.refused = now
}

package podnet

import (
	"errors"
	"net/netip"
)

// SetClusterCIDRs takes over the ranges of all hosts' pods, to which some were added. Packets to a new range are no longer masqueraded
// before there is a route to it, and packets from it are dropped where no host can send them from.
func (n *Network) SetClusterCIDRs(ranges []netip.Prefix) error {
	n.routes.Lock()
	defer n.routes.Unlock()
	var failed []error
	for _, f := range n.families {
		if err := f.setRanges(ranges); err != nil {
			failed = append(failed, err)
			continue
		}
		if f.masqueraded {
			failed = append(failed, n.syncMasquerade(f))
		}
	}
	failed = append(failed, n.reroutePods())
	if n.peers != nil {
		failed = append(failed, n.syncRoutes())
	}
	return errors.Join(failed...)
}

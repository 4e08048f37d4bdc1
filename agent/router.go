package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
)

// router sets the routes to other nodes' pods, and the nodes whose packets the programs accept.
type router struct {
	self    podpath.Node // this node
	network *podnet.Network
	path    *podpath.Path
	ranges  *clusterRanges
	asked   kernel
}

// SyncRoutes makes the peers' pods reachable, and accepts packets from each peer with its own pods' addresses. The latter
// comes first: a peer that has learnt of this node may send before this node has a route to it.
func (r *router) SyncRoutes(peers []podnet.Peer) error {
	r.ranges.look(peers)
	nodes := []podpath.Node{r.self}
	for _, p := range peers {
		nodes = append(nodes, podpath.Node{Addrs: p.NodeIPs, PodCIDRs: p.PodCIDRs})
	}
	err := r.path.SetNodes(nodes)
	if err != nil {
		err = fmt.Errorf("pods' packets from other nodes: %w", err)
	}
	return errors.Join(err, r.asked.ask(context.Background(), "the kernel's answer about routes to other nodes' pods (netlink)", kernelWithin, func() error {
		return r.network.SyncRoutes(peers)
	}))
}

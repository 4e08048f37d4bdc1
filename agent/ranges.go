package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/podnet"
)

// clusterRanges are the ranges of all pods of the cluster. Some may be added while the agent runs; none is ever taken back, so that a
// server which does not know of one yet, or is older, takes none away.
type clusterRanges struct {
	// wanted asks for the ranges before the next time that they are asked for anyway: a node has a part of one that is not known.
	wanted chan struct{}

	mu      sync.Mutex
	network skepv1.Network // as it is kept across restarts

	// applying is held while the kernel is changed, which may take long; it is taken before mu.
	applying sync.Mutex
	use      func([]netip.Prefix) error
	used     []netip.Prefix // with which use has succeeded
}

// known are the ranges, those of the cluster's start first.
func (r *clusterRanges) known() []netip.Prefix {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.network.Pods()
}

// begin sets what was learnt at the start.
func (r *clusterRanges) begin(n skepv1.Network) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.network = n
}

// follow has f called with all ranges: now, and whenever some were added.
func (r *clusterRanges) follow(f func([]netip.Prefix) error) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.use, r.used = f, nil
	r.bringIntoUse()
}

// merged is the answer of a server with the ranges that are known besides.
func (r *clusterRanges) merged(n skepv1.Network) skepv1.Network {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.AddedPodCIDRs = r.with(n.AddedPodCIDRs)
	return n
}

func (r *clusterRanges) with(added []netip.Prefix) []netip.Prefix {
	all := slices.Clone(r.network.AddedPodCIDRs)
	for _, p := range added {
		if p.IsValid() && p == p.Masked() && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// learn takes over the ranges that a server knows, and keeps them for the next start.
func (r *clusterRanges) learn(cfg Config, n skepv1.Network) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.mu.Lock()
	all := r.with(n.AddedPodCIDRs)
	added := len(all) > len(r.network.AddedPodCIDRs)
	r.network.AddedPodCIDRs = all
	now := r.network
	r.mu.Unlock()
	if added {
		slog.Info("pod ranges were added to the cluster", "ranges", now.Pods())
		if err := writeNetwork(cfg, now); err != nil {
			slog.Warn("added pod ranges not written to the state folder; until the API server answers, a restart has only the first ranges", "err", err)
		}
	}
	r.bringIntoUse()
}

// bringIntoUse is called with applying held. What fails is tried again when the ranges are asked for the next time.
func (r *clusterRanges) bringIntoUse() {
	ranges := r.known()
	if r.use == nil || slices.Equal(ranges, r.used) {
		return
	}
	if err := r.use(ranges); err != nil {
		slog.Error("added pod ranges not installed in the data plane; pods in them cannot be reached; trying again", "ranges", ranges, "err", err)
		return
	}
	r.used = ranges
}

// look asks for the ranges if a peer has a part of one that is not known.
func (r *clusterRanges) look(peers []podnet.Peer) {
	known := r.known()
	for _, peer := range peers {
		for _, cidr := range peer.PodCIDRs {
			if slices.ContainsFunc(known, func(k netip.Prefix) bool { return k.Contains(cidr.Addr()) }) {
				continue
			}
			select {
			case r.wanted <- struct{}{}:
			default: // that is pending already
			}
			return
		}
	}
}

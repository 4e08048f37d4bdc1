package podpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

// Node is a node of the cluster, against which programs at uplinks check packets' sources.
type Node struct {
	Addrs    []netip.Addr   // its own; the first of each family is what it sends wrapped packets from
	PodCIDRs []netip.Prefix // its pods'
	Own      bool           // this node
}

// SetNodes says which nodes there are, this one included. Until it is called for the first time, packets between nodes are
// accepted from any source; from then on a pod's address is accepted from the node that has its range only, directly or wrapped.
// The nodes of an earlier process hold until this one calls it.
func (p *Path) SetNodes(nodes []Node) error {
	wanted := map[bpf.PodRangeKey]bpf.PodRangeOwner{}
	for _, n := range nodes {
		owner := ownerOf(n)
		for _, addr := range n.Addrs {
			addr = addr.Unmap()
			wanted[rangeKey(netip.PrefixFrom(addr, addr.BitLen()))] = owner
		}
		for _, cidr := range n.PodCIDRs {
			wanted[rangeKey(cidr)] = owner
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	present, err := p.maps.ranges.All()
	if err != nil {
		return err
	}
	var failed []error
	for key, owner := range wanted { // the new ones first: a range that moves always has an owner
		if present[key] != owner {
			failed = append(failed, p.maps.ranges.Put(key, owner))
		}
	}
	for key := range present {
		if _, stays := wanted[key]; !stays {
			failed = append(failed, p.maps.ranges.Delete(key))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("nodes' ranges of pod addresses: %w", err)
	}
	config, _, err := p.maps.config.Get(0)
	if err != nil || config.NodesKnown == 1 {
		return err
	}
	config.NodesKnown = 1
	return p.maps.config.Put(0, config)
}

func ownerOf(n Node) (owner bpf.PodRangeOwner) {
	if n.Own {
		owner.Flags = bpf.PodRangeFlagsRANGE_OWN
	}
	for _, addr := range n.Addrs {
		addr = addr.Unmap()
		switch {
		case addr.Is4() && owner.Ip4 == bpf.PodAddress{}:
			owner.Ip4 = toNetwork(addr)
		case addr.Is6() && owner.Ip6 == bpf.PodAddress{}:
			owner.Ip6 = toNetwork(addr)
		}
	}
	return owner
}

// rangeKey is a prefix as the trie has it: of 16 bytes, which of an IPv4 one begin with the mapping prefix.
func rangeKey(cidr netip.Prefix) bpf.PodRangeKey {
	bits := cidr.Bits()
	if cidr.Addr().Is4() {
		bits += 96
	}
	return bpf.PodRangeKey{Prefix: uint32(bits), Addr: toNetwork(cidr.Masked().Addr())}
}

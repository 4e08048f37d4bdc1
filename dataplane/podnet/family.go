package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

// family is what this host has of one address family.
type family struct {
	id        int                            // netlink.FAMILY_V4 or FAMILY_V6
	pods      netip.Prefix                   // this host's
	cluster   atomic.Pointer[[]netip.Prefix] // all hosts', never empty
	service   netip.Prefix                   // not valid: none
	node      netip.Addr                     // this host's address; not valid: none
	gateway   netip.Addr                     // next hop of every pod
	addresses *addresses
	// masqueraded is false where the kernel has no nftables.
	masqueraded bool
}

// Every pod's next hops: link-local addresses that no interface has. Pods hold permanent neighbour entries for them with
// hostMAC, so that a pod's first packet needs neither a proxy nor an ARP or NDP exchange.
var (
	gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	gateway6 = netip.MustParseAddr("fe80::1")
)

// headers of IP and TCP, for the segment size that pods offer.
func (f *family) segmentHeaders() int {
	if f.is4() {
		return 20 + 20
	}
	return 40 + 20
}

func (f *family) is4() bool { return f.id == netlink.FAMILY_V4 }

func (f *family) String() string {
	if f.is4() {
		return "IPv4"
	}
	return "IPv6"
}

// base is the address of the pod range itself, which no pod is ever given.
func (f *family) base() netip.Addr { return f.pods.Addr() }

// families checks the configuration and sorts it by family, in the order of the pod ranges.
func (c Config) families() ([]*family, error) {
	if len(c.NodeIPs) == 0 {
		return nil, errors.New("the node's IP address is missing")
	}
	if len(c.PodCIDRs) == 0 {
		return nil, errors.New("the node's pod range is missing")
	}
	var all []*family
	for _, pods := range c.PodCIDRs {
		if !pods.IsValid() || pods != pods.Masked() {
			return nil, fmt.Errorf("pod range %s is not a network prefix", pods)
		}
		f := &family{id: familyOf(pods.Addr()), pods: pods, gateway: gateway6, addresses: newAddresses(pods)}
		if f.is4() {
			f.gateway = gateway4
		}
		for _, other := range all {
			if other.id == f.id {
				return nil, fmt.Errorf("pod ranges %s and %s are both %s: one of each family at most", other.pods, f.pods, f)
			}
		}
		if err := f.setRanges(c.ClusterCIDRs); err != nil {
			return nil, err
		}
		f.service = prefixIn(c.ServiceCIDRs, f.id)
		f.node = addrIn(c.NodeIPs, f.id)
		all = append(all, f)
	}
	return all, nil
}

// ranges are those of all hosts' pods.
func (f *family) ranges() []netip.Prefix { return *f.cluster.Load() }

// setRanges takes over the family's of the cluster's pod ranges.
func (f *family) setRanges(cluster []netip.Prefix) error {
	ranges := prefixesIn(cluster, f.id)
	if !within(f.pods, ranges) {
		return fmt.Errorf("no pod range of the cluster (%v) contains this node's, %s", cluster, f.pods)
	}
	f.cluster.Store(&ranges)
	return nil
}

// within says whether one of the ranges contains all of a prefix.
func within(p netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(p.Addr()) && r.Bits() <= p.Bits() })
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func prefixIn(list []netip.Prefix, id int) netip.Prefix {
	for _, p := range prefixesIn(list, id) {
		return p
	}
	return netip.Prefix{}
}

func prefixesIn(list []netip.Prefix, id int) (of []netip.Prefix) {
	for _, p := range list {
		if p.IsValid() && familyOf(p.Addr()) == id {
			of = append(of, p.Masked())
		}
	}
	return of
}

func addrIn(list []netip.Addr, id int) netip.Addr {
	for _, a := range list {
		if a.IsValid() && familyOf(a) == id {
			return a
		}
	}
	return netip.Addr{}
}

// family returns nil for a family in which this host's pods have no addresses.
func (n *Network) family(id int) *family {
	for _, f := range n.families {
		if f.id == id {
			return f
		}
	}
	return nil
}

// ipv6Off says why this network namespace has no IPv6, "" if it has.
func ipv6Off() string {
	value, err := os.ReadFile(sysctlPath(netlink.FAMILY_V6, "all", "disable_ipv6"))
	switch {
	case err != nil:
		return "the kernel runs without it (boot parameter ipv6.disable)"
	case strings.TrimSpace(string(value)) == "1":
		return "net.ipv6.conf.all.disable_ipv6 is 1"
	}
	return ""
}

func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// anywhere is the destination of the family's default route.
func (f *family) anywhere() *net.IPNet {
	if f.is4() {
		return ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones), ok
}

package podnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// table is the host's main routing table at one moment.
type table struct {
	own     map[netip.Prefix]hop   // Skep's routes through other hosts
	others  map[netip.Prefix]reach // all other routes
	lengths map[int][]int          // of the prefixes in others, by family, longest first
}

// reach is what one of the host's routes says about addresses in its range.
type reach struct {
	metric int
	link   int
	shared bool // they are on the link itself, and answer there
	dead   bool // the host refuses to send there
}

func (n *Network) readTable() (*table, error) {
	routes, err := n.nl.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	t := &table{own: map[netip.Prefix]hop{}, others: map[netip.Prefix]reach{}, lengths: map[int][]int{}}
	links := map[int]bool{}
	for _, r := range routes {
		cidr, ok := destination(r)
		if !ok {
			continue
		}
		if r.Protocol == RouteProtocol {
			if via, ok := netip.AddrFromSlice(r.Gw); ok {
				src, _ := netip.AddrFromSlice(r.Src)
				t.own[cidr] = hop{link: r.LinkIndex, via: via.Unmap(), src: src.Unmap()}
			}
			continue
		}
		direct := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0
		t.add(cidr, reach{
			metric: r.Priority, link: r.LinkIndex, dead: r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL,
			shared: direct && r.Type == unix.RTN_UNICAST && n.hasNeighbours(r.LinkIndex, links),
		})
	}
	for id := range t.lengths {
		t.lengths[id] = t.sortedLengths(id)
	}
	return t, nil
}

// add keeps the route that the kernel prefers where there are several to one range.
func (t *table) add(cidr netip.Prefix, r reach) {
	if old, ok := t.others[cidr]; ok && old.metric <= r.metric {
		return
	}
	t.others[cidr] = r
	t.lengths[familyOf(cidr.Addr())] = nil
}

func (t *table) sortedLengths(id int) (lengths []int) {
	present := map[int]bool{}
	for cidr := range t.others {
		if familyOf(cidr.Addr()) == id {
			present[cidr.Bits()] = true
		}
	}
	for bits := 128; bits >= 0; bits-- {
		if present[bits] {
			lengths = append(lengths, bits)
		}
	}
	return lengths
}

// lookup finds the host's route for addr.
func (t *table) lookup(addr netip.Addr) (reach, bool) {
	for _, bits := range t.lengths[familyOf(addr)] {
		cidr, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if r, ok := t.others[cidr]; ok {
			return r, !r.dead
		}
	}
	return reach{}, false
}

// sharedLink is the link on which addr itself answers ARP or NDP, 0 if there is none.
func (t *table) sharedLink(addr netip.Addr) int {
	if r, ok := t.lookup(addr); ok && r.shared {
		return r.link
	}
	return 0
}

func (t *table) reaches(addr netip.Addr) bool {
	_, ok := t.lookup(addr)
	return ok
}

// hasNeighbours distinguishes links on which a packet can be given to one of several hosts from tunnels and point-to-point links,
// which deliver by destination only.
func (n *Network) hasNeighbours(index int, known map[int]bool) bool {
	if has, ok := known[index]; ok {
		return has
	}
	link, err := n.nl.LinkByIndex(index)
	has := err == nil && link.Attrs().Flags&net.FlagBroadcast != 0 && link.Attrs().RawFlags&unix.IFF_NOARP == 0
	known[index] = has
	return has
}

// destination is a route's range; the default route's is everything of its family.
func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst != nil {
		return prefixOf(r.Dst)
	}
	switch r.Family {
	case netlink.FAMILY_V4:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	case netlink.FAMILY_V6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
	}
	return netip.Prefix{}, false
}

func isDefault(r netlink.Route) bool {
	cidr, ok := destination(r)
	return ok && cidr.Bits() == 0
}

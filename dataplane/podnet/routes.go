package podnet

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that this package made; it changes no others. 83 is assigned to no routing daemon.
const RouteProtocol netlink.RouteProtocol = 83

// Peer is another host and its pods' ranges, one of a family at most.
type Peer struct {
	Name     string
	NodeIPs  []netip.Addr
	PodCIDRs []netip.Prefix
}

// Equal says whether two peers are reached the same way.
func (p Peer) Equal(q Peer) bool {
	return p.Name == q.Name && slices.Equal(p.NodeIPs, q.NodeIPs) && slices.Equal(p.PodCIDRs, q.PodCIDRs)
}

// hop is where packets for a range go next.
type hop struct {
	link int
	via  netip.Addr
	src  netip.Addr // of this host's own packets
}

// way is how a range of a peer is reached: by a route, or through an overlay with a partner in it.
type way struct {
	hop
	underlay int // family of the overlay; 0: directly
	partner  partner
}

// SyncRoutes makes the routes to other hosts' pods exactly those of peers, changing only what differs: a route to a host on a
// link that this one shares, VXLAN to the others. Peers that cannot be reached at all are reported together, after the others
// are installed.
func (n *Network) SyncRoutes(peers []Peer) error {
	n.routes.Lock()
	defer n.routes.Unlock()
	n.peers = append([]Peer{}, peers...)
	return n.syncRoutes()
}

// syncRoutes is called with routes held. The order keeps packets from being lost: partners before the routes that lead to
// them, and the pods' packet sizes before the overlay is used and after it is left.
func (n *Network) syncRoutes() error {
	table, err := n.readTable()
	if err != nil {
		return err
	}
	wanted, failed := n.plan(table)
	used := map[int]int{} // underlay -> partners
	for _, w := range wanted {
		if w.underlay != 0 {
			used[w.underlay]++
		}
	}
	for underlay := range used {
		if err := n.ensureOverlay(underlay); err != nil {
			failed = append(failed, err)
			maps.DeleteFunc(wanted, func(_ netip.Prefix, w way) bool { return w.underlay == underlay })
		}
	}
	n.reportUplinks()
	failed = append(failed, n.resize(), n.syncPartners(wanted))
	failed = append(failed, n.writeRoutes(table, wanted)...)
	for underlay := range n.overlays {
		if used[underlay] == 0 {
			failed = append(failed, n.removeOverlay(underlay))
		}
	}
	n.reportUplinks()
	failed = append(failed, n.resize())
	nodes := map[netip.Addr]bool{}
	for _, w := range wanted {
		if w.underlay == 0 {
			nodes[w.via] = true
		}
	}
	return errors.Join(append(failed, n.syncNodes(nodes), n.syncPeers())...)
}

// plan chooses the way to every range that a peer may have.
func (n *Network) plan(t *table) (wanted map[netip.Prefix]way, failed []error) {
	var claims, refused []*claim
	for _, p := range n.peers {
		for _, cidr := range p.PodCIDRs {
			f := n.family(familyOf(cidr.Addr()))
			if f == nil {
				continue // this host does not have the family
			}
			c := &claim{peer: p, cidr: cidr, reason: f.inCluster(cidr)}
			if c.reason != "" {
				refused = append(refused, c)
				continue
			}
			w, err := n.choose(t, f, p, cidr)
			if err != nil {
				failed = append(failed, fmt.Errorf("the pods of node %s (%s) cannot be reached: %w", p.Name, cidr, err))
				continue
			}
			c.way, c.current = w, t.own[cidr].via == w.via
			claims = append(claims, c)
		}
	}
	settle(claims)
	wanted = map[netip.Prefix]way{}
	for _, c := range claims {
		if c.reason != "" {
			refused = append(refused, c)
			continue
		}
		wanted[c.cidr] = c.way
	}
	n.refuse(refused)
	return wanted, failed
}

func (n *Network) choose(t *table, f *family, p Peer, cidr netip.Prefix) (way, error) {
	if direct := addrIn(p.NodeIPs, f.id); direct.IsValid() && f.node.IsValid() {
		if link := t.sharedLink(direct); link != 0 {
			return way{hop: hop{link: link, via: direct, src: f.node}}, nil
		}
	}
	// Both ends must choose the same, so the order is fixed.
	for _, underlay := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		mine, theirs := addrIn(n.cfg.NodeIPs, underlay), addrIn(p.NodeIPs, underlay)
		if !mine.IsValid() || !theirs.IsValid() {
			continue
		}
		if !t.reaches(theirs) {
			return way{}, fmt.Errorf("this node has no route to its address %s", theirs)
		}
		to := partnerOf(theirs)
		return way{hop: hop{via: to.gateway(cidr), src: f.base()}, underlay: underlay, partner: to}, nil
	}
	return way{}, fmt.Errorf("its addresses %v and this node's %v have no family in common", p.NodeIPs, n.cfg.NodeIPs)
}

// writeRoutes changes routes in place: a range that stays always has one.
func (n *Network) writeRoutes(t *table, wanted map[netip.Prefix]way) (failed []error) {
	for cidr, w := range wanted {
		if w.underlay != 0 {
			w.link = n.overlays[w.underlay].index
		}
		if t.own[cidr] == w.hop {
			continue
		}
		if err := n.nl.RouteReplace(peerRoute(cidr, w.hop, w.underlay != 0)); err != nil {
			failed = append(failed, fmt.Errorf("route to the pods of %s via %s: %w", cidr, w.via, err))
			continue
		}
		if w.underlay != 0 {
			n.log.Info("no link is shared with this node: its pods are reached through VXLAN", "pods", cidr, "node", w.partner.node)
		}
	}
	for cidr, h := range t.own {
		if _, ok := wanted[cidr]; ok {
			continue
		}
		if err := n.nl.RouteDel(peerRoute(cidr, h, false)); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, fmt.Errorf("remove the route to %s via %s: %w", cidr, h.via, err))
		}
	}
	return failed
}

// peerRoute is a route through a host. An overlay's hosts are not on its link as the kernel sees it, but are.
func peerRoute(cidr netip.Prefix, h hop, onLink bool) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(cidr), LinkIndex: h.link, Gw: h.via.AsSlice(), Src: h.src.AsSlice(), Protocol: RouteProtocol}
	if onLink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	return r
}

func ownRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the pod network's routes: %w", err)
	}
	return routes, nil
}

// refuseUnused refuses packets to addresses of this host's pod ranges that no pod has, and to service addresses that were not
// translated. Without it they would leave the host by the default route, or loop between hosts.
func (n *Network) refuseUnused() error {
	refused := map[netip.Prefix]bool{}
	for _, f := range n.families {
		refused[f.pods] = true
		if f.service.IsValid() {
			refused[f.service] = true
		}
	}
	for cidr := range refused {
		route := &netlink.Route{Dst: ipNet(cidr), Type: unix.RTN_UNREACHABLE, Protocol: RouteProtocol}
		if err := n.nl.RouteReplace(route); err != nil {
			return fmt.Errorf("refuse unused addresses of %s: %w", cidr, err)
		}
	}
	return n.forgetOldRanges(refused)
}

// forgetOldRanges removes the unreachable routes of ranges that this host had before: another host's pods may have them now.
func (n *Network) forgetOldRanges(refused map[netip.Prefix]bool) error {
	routes, err := ownRoutes(n.nl)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNREACHABLE || r.Dst == nil {
			continue
		}
		cidr, ok := prefixOf(r.Dst)
		if !ok || refused[cidr] {
			continue
		}
		if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop refusing the former range %s: %w", cidr, err)
		}
	}
	return nil
}

// adoptNodes recovers which hosts an earlier process found on shared links: those that its routes lead through.
func (n *Network) adoptNodes() error {
	t, err := n.readTable()
	if err != nil {
		return err
	}
	for _, h := range t.own {
		if _, overlaid := n.overlayOf(h.link); !overlaid {
			n.nodes[h.via] = true
		}
	}
	return nil
}

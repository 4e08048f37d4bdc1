package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that this package made; it touches no others. 83 is assigned to no routing daemon.
const RouteProtocol netlink.RouteProtocol = 83

// Peer is another host and its pods' range.
type Peer struct {
	Name    string
	NodeIP  netip.Addr
	PodCIDR netip.Prefix
}

// SyncRoutes makes the routes to other hosts' pods exactly those of peers, changing only what differs. Peers that cannot be
// routed to (not on a link that this host shares) are reported together, after all others are in place.
func (n *Network) SyncRoutes(peers []Peer) error {
	n.routes.Lock()
	defer n.routes.Unlock()
	present, err := n.peerRoutes()
	if err != nil {
		return err
	}
	var failed []error
	wanted := make(map[netip.Prefix]bool, len(peers))
	for _, p := range peers {
		if !p.PodCIDR.IsValid() || !p.NodeIP.Is4() || p.PodCIDR == n.cfg.PodCIDR {
			continue
		}
		wanted[p.PodCIDR] = true
		if old, ok := present[p.PodCIDR]; ok && old == p.NodeIP {
			continue
		}
		if err := n.nl.RouteReplace(n.peerRoute(p.PodCIDR, p.NodeIP)); err != nil {
			failed = append(failed, peerRouteError(p, err))
		}
	}
	for cidr, via := range present {
		if wanted[cidr] {
			continue
		}
		if err := n.nl.RouteDel(n.peerRoute(cidr, via)); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, fmt.Errorf("remove the route to %s via %s: %w", cidr, via, err))
		}
	}
	return errors.Join(failed...)
}

func peerRouteError(p Peer, err error) error {
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("route to the pods of node %s (%s): its address %s is not on a link that this node shares", p.Name, p.PodCIDR, p.NodeIP)
	}
	return fmt.Errorf("route to the pods of node %s (%s via %s): %w", p.Name, p.PodCIDR, p.NodeIP, err)
}

func (n *Network) peerRoute(cidr netip.Prefix, via netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: ipNet(cidr), Gw: via.AsSlice(), Src: n.cfg.NodeIP.AsSlice(), Protocol: RouteProtocol}
}

// peerRoutes returns our routes that have a gateway: pod range -> host.
func (n *Network) peerRoutes() (map[netip.Prefix]netip.Addr, error) {
	routes, err := ownRoutes(n.nl)
	if err != nil {
		return nil, err
	}
	found := map[netip.Prefix]netip.Addr{}
	for _, r := range routes {
		if r.Dst == nil || r.Gw == nil {
			continue
		}
		cidr, ok := prefixOf(r.Dst)
		via, ok2 := netip.AddrFromSlice(r.Gw)
		if ok && ok2 {
			found[cidr] = via.Unmap()
		}
	}
	return found, nil
}

func ownRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the pod network's routes: %w", err)
	}
	return routes, nil
}

// refuseUnused answers for addresses of this host's pod range that no pod has, and for service addresses that were not
// translated. Without it they would follow the default route out of the host, or loop between hosts.
func (n *Network) refuseUnused() error {
	for _, cidr := range []netip.Prefix{n.cfg.PodCIDR, n.cfg.ServiceCIDR} {
		if !cidr.IsValid() || !cidr.Addr().Is4() {
			continue
		}
		route := &netlink.Route{Dst: ipNet(cidr), Type: unix.RTN_UNREACHABLE, Protocol: RouteProtocol}
		if err := n.nl.RouteReplace(route); err != nil {
			return fmt.Errorf("refuse unused addresses of %s: %w", cidr, err)
		}
	}
	return n.forgetOldRanges()
}

// forgetOldRanges removes the refusals of ranges that this host had before: another host's pods may have them now.
func (n *Network) forgetOldRanges() error {
	routes, err := ownRoutes(n.nl)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNREACHABLE || r.Dst == nil {
			continue
		}
		cidr, ok := prefixOf(r.Dst)
		if !ok || cidr == n.cfg.PodCIDR || cidr == n.cfg.ServiceCIDR {
			continue
		}
		if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop refusing the former range %s: %w", cidr, err)
		}
	}
	return nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

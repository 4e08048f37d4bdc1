package podnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// OwnPrefix begins the names of the interfaces that lead to pods or carry packets between nodes.
const OwnPrefix = "skep"

// FindUplinks returns the host's interfaces that packets from outside arrive at: those that have a node address, in the order of the
// addresses, then those that default routes use, each hop of multipath routes included. Loopback and Skep's own interfaces are left
// out.
func FindUplinks(nl *netlink.Handle, nodeIPs []netip.Addr) ([]netlink.Link, error) {
	addrs, err := nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var indexes []int
	for _, want := range nodeIPs {
		for _, a := range addrs {
			if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == want {
				indexes = append(indexes, a.LinkIndex)
			}
		}
	}
	routes, err := nl.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !isDefault(r) {
			continue
		}
		indexes = append(indexes, r.LinkIndex)
		for _, hop := range r.MultiPath {
			indexes = append(indexes, hop.LinkIndex)
		}
	}
	var uplinks []netlink.Link
	for i, index := range indexes {
		if index == 0 || slices.Contains(indexes[:i], index) {
			continue
		}
		link, err := nl.LinkByIndex(index)
		if err != nil {
			continue // it was removed meanwhile
		}
		if a := link.Attrs(); a.Flags&net.FlagLoopback == 0 && !strings.HasPrefix(a.Name, OwnPrefix) {
			uplinks = append(uplinks, link)
		}
	}
	return uplinks, nil
}

// findUplinks finds this host's uplinks, where replies to pods arrive, and takes the MTU from the one with the first node address.
func (n *Network) findUplinks() error {
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := n.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, want := range n.cfg.NodeIPs {
		at := slices.IndexFunc(addrs, func(a netlink.Addr) bool {
			got, ok := netip.AddrFromSlice(a.IP)
			return ok && got.Unmap() == want
		})
		if at < 0 {
			return fmt.Errorf("no interface of this host has the node address %s", want)
		}
		for _, link := range links {
			if link.Attrs().Index == addrs[at].LinkIndex && n.cfg.MTU == 0 {
				n.cfg.MTU = link.Attrs().MTU
			}
		}
	}
	n.uplinks, err = FindUplinks(n.nl, n.cfg.NodeIPs)
	return err
}

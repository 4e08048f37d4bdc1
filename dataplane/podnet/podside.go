package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configurePod brings the pod's loopback and its interface up. The order matters: the settings must be there before the
// interface is up, the routes need it up, and the neighbour entries must be there before a default route lets the first
// packet out.
func (n *Network) configurePod(pod *podEnd, addrs []netip.Addr) error {
	lo, err := pod.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback in the pod: %w", err)
	}
	eth, err := pod.nl.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("%s in the pod: %w", podInterface, err)
	}
	if addrIn(addrs, netlink.FAMILY_V6).IsValid() {
		if err := pod.run(prepareIPv6); err != nil {
			return fmt.Errorf("IPv6 in the pod: %w", err)
		}
	}
	for _, link := range []netlink.Link{lo, eth} {
		if err := pod.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s in the pod up: %w", link.Attrs().Name, err)
		}
	}
	for _, addr := range addrs {
		// No other host can have the address, so it needs no duplicate address detection.
		if err := pod.nl.AddrReplace(eth, &netlink.Addr{IPNet: hostNet(addr), Flags: noDAD(addr)}); err != nil {
			return fmt.Errorf("give %s to the pod: %w", addr, err)
		}
		f := n.family(familyOf(addr))
		if err := pod.nl.NeighSet(&netlink.Neigh{
			LinkIndex: eth.Attrs().Index, Family: f.id, State: netlink.NUD_PERMANENT, IP: f.gateway.AsSlice(), HardwareAddr: hostMAC,
		}); err != nil {
			return fmt.Errorf("set the pod's gateway neighbour: %w", err)
		}
		if err := n.routePod(pod, eth.Attrs().Index, f, addr); err != nil {
			return err
		}
	}
	return nil
}

func noDAD(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return unix.IFA_F_NODAD
}

// routePod gives the pod its routes, with the packet sizes that fit them; see README.md.
func (n *Network) routePod(pod *podEnd, index int, f *family, addr netip.Addr) error {
	if f.is4() { // IPv6's gateway is on the link as all link-local addresses are
		if err := pod.nl.RouteReplace(&netlink.Route{LinkIndex: index, Dst: hostNet(f.gateway), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to the pod's gateway: %w", err)
		}
	}
	n.mu.Lock()
	overhead := n.overhead
	n.mu.Unlock()
	routes := []*netlink.Route{{
		LinkIndex: index, Dst: f.anywhere(), Gw: f.gateway.AsSlice(), Src: addr.AsSlice(),
		AdvMSS: n.cfg.MTU - f.segmentHeaders() - n.encapsulation(),
	}}
	for _, inside := range append(slices.Clone(f.ranges()), f.service) { // a service's packets may become a pod's
		if !inside.IsValid() {
			continue
		}
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(inside), Gw: f.gateway.AsSlice(), Src: addr.AsSlice()}
		if overhead > 0 {
			r.MTU = n.cfg.MTU - overhead
		}
		routes = append(routes, r)
	}
	for _, r := range routes {
		if err := pod.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("route of the pod to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// encapsulation is what load balancing from outside may add to a client's packet on its way to the pod's host: an outer
// header of IPv4 or, where hosts have it, of IPv6.
func (n *Network) encapsulation() int {
	if addrIn(n.cfg.NodeIPs, netlink.FAMILY_V6).IsValid() {
		return 40
	}
	return 20
}

// prepareIPv6 keeps the pod from waiting for answers that never come: there are no router advertisements for it, and no other
// host has its link-local address. It runs before the interface is up.
func prepareIPv6() error {
	v6 := netlink.FAMILY_V6
	return errors.Join(
		setSysctl(sysctlPath(v6, "lo", "disable_ipv6"), "0"),
		setSysctl(sysctlPath(v6, podInterface, "disable_ipv6"), "0"),
		setSysctl(sysctlPath(v6, podInterface, "accept_ra"), "0"),
		setSysctl(sysctlPath(v6, podInterface, "accept_dad"), "0"))
}

// run calls f inside the pod's network namespace, on a thread that ends with it.
func (p *podEnd) run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that no other goroutine runs in the namespace
		if err := unix.Setns(int(p.ns), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace of pod %s: %w", p.id, err)
			return
		}
		done <- f()
	}()
	return <-done
}

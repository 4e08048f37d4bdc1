package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// ensureRouter makes the router between the bridge and the hosts behind it, if
// there are any: a namespace with a place on the bridge and a bridge of its own,
// and routes to it on this machine.
func (c *Cluster) ensureRouter(st *state) error {
	wanted := false
	for _, n := range st.Nodes {
		wanted = wanted || n.Routed
	}
	if !wanted {
		return nil
	}
	name := netnsName(c.Name, routerName)
	if err := createNetns(name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	router, err := netns.GetFromName(name)
	if err != nil {
		return fmt.Errorf("the router's network namespace: %w", err)
	}
	defer router.Close()
	port, err := ownLink(c.Name, portName(c.Name, 0))
	if err != nil {
		return err
	}
	if port == nil {
		if err := plugPort(c.Name, 0, false, router); err != nil {
			return err
		}
	}
	if err := inNamespace(router, func() error { return c.configureRouter(st) }); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return c.routeToRouter(st)
}

// configureRouter is called inside the router's network namespace.
func (c *Cluster) configureRouter(st *state) error {
	bridge, err := ownLink(c.Name, bridgeName(c.Name))
	if err != nil {
		return err
	}
	if bridge == nil {
		if bridge, err = addBridge(c.Name); err != nil {
			return err
		}
	}
	switches := []string{"/proc/sys/net/ipv4/ip_forward"}
	if st.IPv6 {
		switches = append(switches, "/proc/sys/net/ipv6/conf/all/forwarding")
	}
	for _, path := range switches {
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	if err := addAddresses(bridge, behindRouter.addrs(st.Subnet, gatewayHost, st.IPv6)); err != nil {
		return err
	}
	// The hosts behind the router need a route to this machine only.
	return configureHostLinks(onBridge.addrs(st.Subnet, routerHost, st.IPv6), nil)
}

// routeToRouter lets this machine reach the hosts behind the router. The routes are removed with the bridge.
func (c *Cluster) routeToRouter(st *state) error {
	bridge, err := ownLink(c.Name, bridgeName(c.Name))
	if err != nil || bridge == nil {
		return err
	}
	routes := []netlink.Route{{Dst: ipNet(behindRouter.prefix(st.Subnet)), Gw: onBridge.addr(st.Subnet, routerHost).AsSlice()}}
	if st.IPv6 {
		routes = append(routes, netlink.Route{Dst: ipNet(behindRouter.prefix6(st.Subnet)), Gw: onBridge.addr6(st.Subnet, routerHost).AsSlice()})
	}
	for _, r := range routes {
		r.LinkIndex = bridge.Attrs().Index
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("route to the hosts behind the router (%s): %w", r.Dst, err)
		}
	}
	return nil
}

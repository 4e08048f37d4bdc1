package fabrictest

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// links are how hosts are joined to the router. Each method runs in the namespace that it configures.
type links interface {
	prepare() error // the router, before there are hosts
	atRouter(port string, host []netip.Addr) error
	atHost(host []netip.Addr) error
}

// bridged hosts are on one link.
type bridged struct{}

func (bridged) prepare() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	snooping := false // it would delay the first neighbour solicitations
	return errors.Join(
		netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}),
		up("br0", "192.0.2.1/24", "2001:db8:2::1/64"))
}

func (bridged) atRouter(name string, _ []netip.Addr) error {
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName("br0")
	if err != nil {
		return err
	}
	return netlink.LinkSetMaster(port, bridge)
}

func (bridged) atHost(host []netip.Addr) error {
	return errors.Join(up("eth0", host[0].String()+"/24", host[1].String()+"/64"), routeVia("192.0.2.1", "2001:db8:2::1"))
}

// routed hosts have a link each, with nothing on it but the router.
type routed struct{}

func (routed) prepare() error { return nil }

func (routed) atRouter(port string, host []netip.Addr) error {
	return errors.Join(up(port, "192.0.2.1/32", "2001:db8:2::1/128"), onLink(port, host...))
}

func (routed) atHost(host []netip.Addr) error {
	return errors.Join(up("eth0", host[0].String()+"/32", host[1].String()+"/128"),
		onLink("eth0", RouterIPs()...), routeVia("192.0.2.1", "2001:db8:2::1"))
}

func onLink(name string, addrs ...netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var failed []error
	for _, addr := range addrs {
		to := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
		failed = append(failed, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}))
	}
	return errors.Join(failed...)
}

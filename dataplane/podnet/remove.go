package podnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Remove removes everything from this host that the package ever made: pods' and VXLAN interfaces, routes, and the nftables tables.
// Forwarding stays on for the uplinks, since other programs may rely on it.
func Remove() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var failed []error
	for _, link := range links {
		if !isOverlay(link) && (link.Type() != "veth" || !isHostInterface(link.Attrs().Name)) {
			continue
		}
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("remove interface %s: %w", link.Attrs().Name, err))
		}
	}
	routes, err := ownRoutes(h)
	if err != nil {
		failed = append(failed, err)
	}
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, fmt.Errorf("remove route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(append(failed, removeMasquerade())...)
}

package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/podnet"
)

// localAddresses are this host's addresses that clients may use, without those of pods' interfaces and link-local
// ones.
func localAddresses() ([]netip.Addr, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	ours := map[int]bool{}
	for _, link := range links {
		ours[link.Attrs().Index] = strings.HasPrefix(link.Attrs().Name, podnet.OwnPrefix)
	}
	addrs := []netip.Addr{}
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if ok && !ours[a.LinkIndex] && addr.IsGlobalUnicast() && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}

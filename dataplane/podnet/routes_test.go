package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, text := range list {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestSyncRoutesChangesOnlyTheDifferenceAndOnlyItsOwn(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	host := f.hosts[0]
	foreign := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.244.9.0/24")), Gw: netip.MustParseAddr("192.0.2.1").AsSlice()}
	peers := []Peer{f.peer(1), f.peer(2)}
	peers[1].NodeIPs = addrs("192.0.2.13", "2001:db8:2::13")
	peers[0].NodeIPs = addrs("192.0.2.12", "2001:db8:2::12")
	host.Do(func() error { return errors.Join(netlink.RouteAdd(foreign), n.SyncRoutes(peers)) })
	updates, stop := make(chan netlink.RouteUpdate, 16), make(chan struct{})
	host.Do(func() error { return netlink.RouteSubscribe(updates, stop) })
	moved := []Peer{peers[0], {Name: "c", NodeIPs: addrs("192.0.2.14", "2001:db8:2::13"), PodCIDRs: peers[1].PodCIDRs},
		{Name: "far", NodeIPs: addrs("172.16.0.1"), PodCIDRs: prefixes("10.244.4.0/24")}}
	host.Do(func() error {
		if err := netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}); err != nil {
			return err
		}
		err := n.SyncRoutes(moved)
		if err == nil || !strings.Contains(err.Error(), "node far") || !strings.Contains(err.Error(), "no route to its address 172.16.0.1") {
			t.Errorf("SyncRoutes with an unreachable peer: %v", err)
		}
		return netlink.RouteDel(foreign) // marks the end of the updates
	})
	var changed []string
	for u := range updates {
		if u.Dst != nil && u.Dst.String() == foreign.Dst.String() {
			break
		}
		if u.Protocol == RouteProtocol {
			changed = append(changed, fmt.Sprint(u.Dst, " via ", u.Gw))
		}
	}
	close(stop)
	if want := []string{"10.244.3.0/24 via 192.0.2.14"}; !slices.Equal(changed, want) {
		t.Fatalf("routes changed: %v, want %v", changed, want)
	}
	host.Do(func() error { return n.SyncRoutes(nil) })
	for _, r := range routesOf(t, host) {
		if strings.Contains(r, "via 192.0.2.1") || strings.Contains(r, "via 2001:db8:2::1") && !strings.HasPrefix(r, "::/0") {
			t.Errorf("route left after all peers went: %s", r)
		}
	}
}

func TestPeersOnTunnelsAndBehindRoutersShareNoLink(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	f.hosts[0].Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tun0"
		if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}); err != nil {
			return err
		}
		if err := addressed("tun0", "172.16.1.1/24"); err != nil {
			return err
		}
		table, err := n.readTable()
		if err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for addr, want := range map[string]int{
			"192.0.2.77": eth.Attrs().Index, "2001:db8:2::77": eth.Attrs().Index, "172.16.1.2": 0, "203.0.113.9": 0, "2001:db8:9::9": 0,
		} {
			if got := table.sharedLink(netip.MustParseAddr(addr)); got != want {
				t.Errorf("link shared with %s: %d, want %d", addr, got, want)
			}
			if !table.reaches(netip.MustParseAddr(addr)) {
				t.Errorf("%s cannot be reached", addr)
			}
		}
		return nil
	})
}

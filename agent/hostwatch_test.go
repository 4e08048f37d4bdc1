package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/sandbox"
)

// hostView is what the agent sees of a host.
type hostView struct {
	change    podnet.HostChange
	addresses []netip.Addr
	uplinks   []string
	mac       string // of eth0
	up        int    // how many interfaces carry packets
}

// watchedHost is a network namespace with two interfaces whose changes are followed.
type watchedHost struct {
	*sandbox.Namespace
	t     *testing.T
	views chan hostView
}

var (
	ownIP  = netip.MustParseAddr("192.0.2.11")
	second = netip.MustParsePrefix("198.51.100.1/24")
)

func newWatchedHost(t *testing.T) *watchedHost {
	h := &watchedHost{Namespace: sandbox.NewNamespace(t), t: t, views: make(chan hostView, 64)}
	h.Do(func() error {
		return errors.Join(addPair("eth0", "far0"), addPair("eth1", "far1"),
			setAddress("eth0", netip.PrefixFrom(ownIP, 24), netlink.AddrAdd),
			setAddress("eth1", netip.MustParsePrefix("203.0.113.1/24"), netlink.AddrAdd))
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	look := func(c podnet.HostChange) error { return h.Try(func() error { return h.look(c) }) } // on whatever thread
	watch := podnet.NewHostWatch()
	changes := watch.Follow()
	running.Go(func() { followHost(ctx, changes, look) })
	running.Go(func() {
		if err := h.Try(func() error { watch.Run(ctx); return nil }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	h.await("what is there at first", func(v hostView) bool {
		return v.change.Addresses && v.change.Uplinks && len(v.addresses) == 2 && slices.Equal(v.uplinks, []string{"eth0"})
	})
	h.Do(func() error { return setAddress("eth0", second, netlink.AddrAdd) })
	h.await("both pairs at work", func(v hostView) bool { return v.up == 4 && len(v.addresses) == 3 })
	h.Do(func() error { return setAddress("eth0", second, netlink.AddrDel) })
	h.await("their addresses", func(v hostView) bool { return len(v.addresses) == 2 })
	return h
}

func (h *watchedHost) look(c podnet.HostChange) error {
	v := hostView{change: c}
	var failed [3]error
	v.addresses, failed[0] = localAddresses()
	v.addresses = slices.DeleteFunc(v.addresses, netip.MustParsePrefix("fd00::/64").Contains) // the sandbox's loopback
	v.uplinks, failed[1] = findUplinks([]netip.Addr{ownIP})
	links, err := netlink.LinkList()
	failed[2] = err
	for _, l := range links {
		if l.Attrs().Name == "eth0" {
			v.mac = l.Attrs().HardwareAddr.String()
		}
		if l.Attrs().OperState == netlink.OperUp {
			v.up++
		}
	}
	h.views <- v
	return errors.Join(failed[:]...)
}

// await fails unless the host is seen so within a second of the change.
func (h *watchedHost) await(what string, seen func(hostView) bool) {
	h.t.Helper()
	late := time.After(time.Second)
	var last hostView
	for {
		select {
		case last = <-h.views:
			if seen(last) {
				return
			}
		case <-late:
			h.t.Fatalf("%s was not seen within a second, but %+v", what, last)
		}
	}
}

func addPair(name, far string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return errors.Join(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far}), onLink(name, netlink.LinkSetUp), onLink(far, netlink.LinkSetUp))
}

func onLink(name string, do func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return do(l)
}

func setAddress(name string, p netip.Prefix, do func(netlink.Link, *netlink.Addr) error) error {
	return onLink(name, func(l netlink.Link) error {
		return do(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
	})
}

func defaultRoute(name, gateway string, do func(*netlink.Route) error) error {
	return onLink(name, func(l netlink.Link) error {
		return do(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
}

func TestHostIsFollowed(t *testing.T) {
	h := newWatchedHost(t)
	has := func(v hostView, addr netip.Addr) bool {
		return v.change.Addresses && slices.Contains(v.addresses, addr)
	}
	h.Do(func() error { return setAddress("eth0", second, netlink.AddrAdd) })
	h.await("a new address", func(v hostView) bool { return has(v, second.Addr()) })
	h.Do(func() error { return setAddress("eth0", second, netlink.AddrDel) })
	h.await("an address that is gone", func(v hostView) bool { return v.change.Addresses && !slices.Contains(v.addresses, second.Addr()) })
	six := netip.MustParsePrefix("2001:db8::5/64")
	h.Do(func() error { return setAddress("eth0", six, netlink.AddrAdd) })
	h.await("a new IPv6 address", func(v hostView) bool { return has(v, six.Addr()) })

	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	h.Do(func() error {
		return onLink("eth0", func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac) })
	})
	h.await("another link address", func(v hostView) bool { return v.change.Uplinks && v.mac == mac.String() })

	h.Do(func() error { return defaultRoute("eth1", "203.0.113.254", netlink.RouteAdd) })
	h.await("a default route that appears", func(v hostView) bool { return slices.Equal(v.uplinks, []string{"eth0", "eth1"}) })
	h.Do(func() error { return onLink("eth1", netlink.LinkSetDown) })
	h.await("an uplink that goes down", func(v hostView) bool { return slices.Equal(v.uplinks, []string{"eth0"}) })
	h.Do(func() error {
		return errors.Join(onLink("eth1", netlink.LinkSetUp), defaultRoute("eth1", "203.0.113.254", netlink.RouteAdd))
	})
	h.await("an uplink that comes up", func(v hostView) bool { return slices.Equal(v.uplinks, []string{"eth0", "eth1"}) })
	h.Do(func() error { return onLink("eth1", netlink.LinkDel) })
	h.await("an uplink that is gone", func(v hostView) bool { return slices.Equal(v.uplinks, []string{"eth0"}) })
}

// A node has many pods, and a cluster many nodes: changes of their interfaces and routes are no change of the
// host's addresses or uplinks.
func TestPodsAndPeersCauseNoWork(t *testing.T) {
	h := newWatchedHost(t)
	for len(h.views) > 0 {
		<-h.views
	}
	h.Do(func() error {
		failed := []error{addPair(podnet.OwnPrefix+"pod", podnet.OwnPrefix+"far")}
		for _, text := range []string{"10.244.0.7/32", "10.244.9.0/24", "2001:db8:9::/64"} {
			p := netip.MustParsePrefix(text)
			failed = append(failed, onLink(podnet.OwnPrefix+"pod", func(l netlink.Link) error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index,
					Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
			}))
		}
		failed = append(failed, onLink(podnet.OwnPrefix+"pod", netlink.LinkDel), setAddress("eth0", second, netlink.AddrAdd))
		return errors.Join(failed...)
	})
	// The kernel reports in order: what came before the address would be seen before it.
	first := <-h.views
	if !slices.Contains(first.addresses, second.Addr()) {
		t.Errorf("a pod's interface and routes had the host looked at: %+v", first)
	}
}

// Uplinks are the interfaces at which packets from outside arrive.
func TestUplinksAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		setUp func() error
		nodes []netip.Addr
		want  []string
	}{
		{"nothing", func() error { return nil }, []netip.Addr{ownIP}, nil},
		{"node address", func() error { return nil }, []netip.Addr{netip.MustParseAddr("203.0.113.1")}, []string{"eth1"}},
		{"default route", func() error { return defaultRoute("eth1", "203.0.113.254", netlink.RouteAdd) }, nil, []string{"eth1"}},
		{"IPv6 default route", func() error { return defaultRoute("eth1", "fe80::1", netlink.RouteAdd) }, nil, []string{"eth1"}},
		{"several next hops", func() error {
			return onLink("eth0", func(a netlink.Link) error {
				return onLink("eth1", func(b netlink.Link) error {
					return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, MultiPath: []*netlink.NexthopInfo{
						{LinkIndex: a.Attrs().Index, Gw: net.ParseIP("198.51.100.9")}, {LinkIndex: b.Attrs().Index, Gw: net.ParseIP("203.0.113.9")},
					}})
				})
			})
		}, nil, []string{"eth0", "eth1"}},
		{"node address on loopback", func() error { return setAddress("lo", netip.PrefixFrom(ownIP, 32), netlink.AddrAdd) }, []netip.Addr{ownIP}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := sandbox.NewNamespace(t)
			ns.Do(func() error {
				if err := errors.Join(addPair("eth0", "far0"), addPair("eth1", "far1"), setAddress("eth0", second, netlink.AddrAdd),
					setAddress("eth1", netip.MustParsePrefix("203.0.113.1/24"), netlink.AddrAdd), c.setUp()); err != nil {
					return err
				}
				got, err := findUplinks(c.nodes)
				if !slices.Equal(got, c.want) {
					t.Errorf("found %v, want %v", got, c.want)
				}
				return err
			})
		})
	}
}

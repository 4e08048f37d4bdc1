package flow

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// expireHops makes the program look up every next hop again.
func (s *stage) expireHops(t *testing.T) {
	t.Helper()
	s.changeHops(t, func(hop *bpf.UplinkHop) { hop.Expires = 0 })
}

// A router between two nodes reports an MTU: clients get it, but only if the error quotes a tunnel of this node to
// another, and the MTU is possible.
func TestWhatFitsOnTheWayToANode(t *testing.T) {
	for _, outer := range []struct {
		name           string
		node           string
		own, to        netip.Addr
		router         netip.Addr
		kind, code     uint8
		other          uint8 // an error of another kind
		header, lowest int
	}{
		{"IPv4 outside", "node2", node4, peer4, netip.MustParseAddr("198.18.0.1"), 3, 4, 11, 20, 576},
		{"IPv6 outside", "node6", node6, sixth, netip.MustParseAddr("2001:db8:f::1"), 2, 0, 3, 40, 1280},
	} {
		t.Run(outer.name, func(t *testing.T) {
			both(t, func(t *testing.T, s *stage, a addresses) {
				s.Do(s.meetSixth)
				s.set(external("t/udp", service.UDP, a.vip, backend(a.far, outer.node)))
				k, inner := kindsOf(a), 28
				if a.client.Addr().Is6() {
					inner = 48
				}
				sized := func(size int) packet { return udp(a.client, a.vip, string(bytes.Repeat([]byte("a"), size-inner))) }
				s.run(sized(100).arriving())
				s.run(sized(100).arriving())
				about := func(from, to netip.Addr) []byte { return tunnel(from, to, 7, 0, sized(1400)).ip()[:outer.header+8] }
				said := func(kind, code uint8, mtu int, about []byte) []byte {
					return icmp(outer.router, outer.own, kind, code, uint32(mtu), about).arriving()
				}
				ours := about(outer.own, outer.to)
				fits := func(name string, mtu int) {
					t.Helper()
					large := sized(mtu - outer.header + 1)
					s.check(t, step{name + ": one byte more than fits", large.arriving(), xdpTX, answered(icmp(a.vip.Addr(), a.client.Addr(),
						k.tooBig, k.tooBigCode, uint32(mtu-outer.header), large.ip()[:256])), []string{"too_big"}})
					if _, _, moved := s.run(sized(mtu - outer.header).arriving()); moved["encapsulated"]+moved["handed_over"] != 1 {
						t.Errorf("%s: what fits exactly: counters %v", name, moved)
					}
				}
				fits("nothing was said", 1500)
				s.check(t,
					step{"less than can be", said(outer.kind, outer.code, outer.lowest-1, ours), xdpPass, nil, []string{"tunnel_error"}},
					step{"not about size", said(outer.other, 0, 1400, ours), xdpPass, nil, []string{"tunnel_error"}},
					step{"another's tunnel", said(outer.kind, outer.code, 1400, about(outer.router, outer.to)), xdpPass, nil, []string{"other_protocol"}},
					step{"to a stranger", said(outer.kind, outer.code, 1400, about(outer.own, outer.router)), xdpPass, nil, []string{"other_protocol"}},
				)
				fits("nothing that counts was said", 1500)
				s.check(t, step{"too big", said(outer.kind, outer.code, 1400, ours), xdpPass, nil, []string{"tunnel_too_big"}})
				fits("1400", 1400)
				s.check(t, step{"wider", said(outer.kind, outer.code, 1450, ours), xdpPass, nil, []string{"tunnel_too_big"}})
				s.expireHops(t)
				fits("1450 after 1400", 1400)
				s.check(t, step{"narrower", said(outer.kind, outer.code, 1350, ours), xdpPass, nil, []string{"tunnel_too_big"}})
				fits("1350", 1350)

				to := bpf.UplinkAddress{Word: bpf.ToNetwork(outer.to)}
				var path bpf.UplinkPathMtu
				paths := s.flows.maps.ByName[bpf.UplinkMapSkepPathMtu]
				if err := paths.Lookup(&to, &path); err != nil {
					t.Fatal(err)
				}
				path.Until = 1
				if err := paths.Put(&to, &path); err != nil {
					t.Fatal(err)
				}
				s.expireHops(t)
				fits("long ago", 1500)
			})
		})
	}
}

// narrow routes packets from one host to another by the router, whose route to that host has a smaller MTU than the link between them.
func (w *world) narrow(from, to, mtu int) {
	w.t.Helper()
	for i, addr := range fabrictest.NodeIPs(to) {
		bits := addr.BitLen()
		there := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)}
		gateway := fabrictest.RouterIPs()[i]
		w.Hosts[from].Do(func() error {
			return netlink.RouteAdd(&netlink.Route{Dst: there, Gw: gateway.AsSlice()})
		})
		w.Router.Do(func() error {
			bridge, err := netlink.LinkByName("br0")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{Dst: there, LinkIndex: bridge.Attrs().Index, MTU: mtu})
		})
	}
	w.Router.Do(func() error { // it would redirect to the shorter way
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/conf/all/send_redirects", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/br0/send_redirects", []byte("0"), 0))
	})
}

// Path MTU discovery works across a link between nodes that has a smaller MTU than their own.
func TestPathMTUAcrossANarrowLink(t *testing.T) {
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name+" between nodes", func(t *testing.T) {
			w := newWorld(t, 2)
			w.narrow(0, 1, 1400)
			w.Hosts[0].Plane.SetNodeAddresses("node2", fabrictest.NodeIPs(1)[i:i+1])
			pod := w.Hosts[1].NewPod("elsewhere")
			serve(t, pod)
			w.SetService(nodePort("t/tcp", service.TCP, 30080, pod))
			for n, asked := range fabrictest.NodeIPs(0) {
				changed := w.moved(0, func() {
					pump(t, dial(t, w.Outside, "tcp", netip.AddrPortFrom(asked, 30080)), 4<<20)
				})
				if changed["too_big"] == 0 || changed["encapsulated"] < 4<<20/1400 {
					t.Errorf("to %s: counters %v, want ICMP to the client and then packets that fit", asked, changed)
				}
				if n == 0 && changed["tunnel_too_big"] == 0 {
					t.Errorf("to %s: counters %v, want ICMP of the router", asked, changed)
				}
			}
		})
	}
}

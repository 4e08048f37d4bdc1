package flow

import (
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/service"
)

// Source ranges hold for packets that another node has wrapped, and for those that another host wraps as if it were a node.
func TestSourceRangesHoldForWrappedPackets(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		stranger := a.client.Addr().Prev()
		bits := a.client.Addr().BitLen()
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			private := external("t/private:"+protocol.String(), protocol, a.vip, backend(a.pod, "node1"))
			private.Frontends[0].Restricted = true
			private.SourceRanges = []netip.Prefix{netip.PrefixFrom(a.client.Addr(), bits)}
			s.set(private)
		}
		wrap := func(class uint8, p packet) []byte { return tunnel(peer4, node4, 0x0107, class, p).arriving() }
		from := netip.AddrPortFrom(stranger, 40000)
		s.check(t,
			step{"a client", wrap(0, tcp(a.client, a.vip, tcpSYN)), xdpPass, tcp(a.client, a.pod, tcpSYN).arriving(),
				[]string{"delivered", "event_flow_made", "event_decapsulated"}},
			step{"a stranger, wrapped", wrap(0, tcp(from, a.vip, tcpSYN)), xdpDrop, nil, []string{"source_refused"}},
			step{"a stranger, wrapped twice", wrap(0x0c, tcp(from, a.vip, tcpSYN)), xdpDrop, nil, []string{"source_refused"}},
			step{"the middle of a connection", wrap(0, tcp(from, a.vip, tcpACK)), xdpDrop, nil, []string{"source_refused", "event_mid_flow"}},
			step{"a datagram", wrap(0, udp(from, a.vip, "x")), xdpDrop, nil, []string{"source_refused"}},
			step{"a client, wrapped by no node", tunnel(router4, node4, 0x0107, 0, tcp(port(a.client, 2), a.vip, tcpSYN)).arriving(), xdpPass, nil,
				[]string{"foreign_tunnel"}},
		)
	})
}

// CVE-2020-8558 among others: packets with a source that no client has reach no backend, wrapped or not.
func TestMartians(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/tcp", service.TCP, a.vip, backend(a.pod, "node1")), external("t/udp", service.UDP, a.vip, backend(a.pod, "node1")))
		sources := []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"}
		if a.client.Addr().Is6() {
			sources = []string{"::1", "::", "ff02::1"}
		}
		for _, text := range sources {
			from := netip.AddrPortFrom(netip.MustParseAddr(text), 40000)
			for _, p := range []packet{tcp(from, a.vip, tcpSYN), udp(from, a.vip, "x")} {
				s.check(t,
					step{text, p.arriving(), xdpDrop, nil, []string{"martian"}},
					step{text + ", wrapped", tunnel(peer4, node4, 0, 0, p).arriving(), xdpDrop, nil, []string{"martian"}})
			}
		}
		// An answer to it would be VXLAN from this node to another.
		overlay := netip.AddrPortFrom(a.client.Addr(), 8472)
		s.check(t,
			step{"from the overlay's port", udp(overlay, a.vip, "x").arriving(), xdpDrop, nil, []string{"martian"}},
			step{"TCP from that port", tcp(overlay, a.vip, tcpSYN).arriving(), xdpPass, tcp(overlay, a.pod, tcpSYN).arriving(), []string{"delivered", "event_flow_made"}})
	})
}

// CVE-2020-8558: ports of a host's loopback are not reached from outside: neither a host port there nor a node port.
func TestLoopbackIsNotServedOutside(t *testing.T) {
	s := newStage(t)
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(loopback)
		here := external("t/here"+loopback, service.TCP, netip.AddrPortFrom(addr, 30080), backend(pod4, "node1"))
		from := client4
		if addr.Is6() {
			here.Backends, from = []service.Backend{backend(pod6, "node1")}, client6
		}
		here.Frontends[0].Scope = service.ScopeCluster // as of a host port with a loopback hostIP
		s.set(here)
		s.check(t, step{loopback, tcp(from, netip.AddrPortFrom(addr, 30080), tcpSYN).arriving(), xdpPass, nil, []string{"no_service"}})
	}
}

// forgedFrames are wrapped packets that no node has made, and neighbour messages: seeds for mutations.
func forgedFrames() [][]byte {
	var frames [][]byte
	for _, a := range []addresses{{client: client4, vip: vip4, node: node4, router: router4}, {client: client6, vip: vip6, node: node6, router: router6}} {
		inner := tcp(a.client, port(a.vip, 8080), tcpSYN)
		tunnels := []packet{
			tunnel(a.router, a.node, 0x0107, 0, inner), tunnel(peer4, node4, 0x0107, 0x0c, tunnel(peer4, node4, 1, 0, inner)),
			tunnel(peer4, node4, 0, 0, udp(netip.AddrPortFrom(a.router, 8472), port(a.vip, 8080), "x")), tunnel(a.node, a.node, 0, 0, inner),
			udp(netip.AddrPortFrom(a.router, 50000), netip.AddrPortFrom(a.node, 8472), "\x08\x00\x00\x00\x00\x00\x53\x00"+string(inner.arriving())),
		}
		for _, p := range tunnels {
			options, first := p, p
			options.options = 2
			first.fragment = &fragment{more: true, id: 7}
			frames = append(frames, p.arriving(), options.arriving(), first.arriving())
		}
	}
	unsolicited := icmp(router6, vip6.Addr(), 136, 0, 0x20000000, append(append(vip6.Addr().AsSlice(), 2, 1), routerMAC[:]...))
	unsolicited.hops = 255
	return append(frames, reply(router4, vip4.Addr()), gratuitousARP(routerMAC, vip4.Addr(), 1), gratuitousARP(routerMAC, vip4.Addr(), 2),
		request(netip.IPv4Unspecified(), vip4.Addr()), unsolicited.arriving(), advertisement(routerMAC, vip6.Addr()),
		solicitation(netip.IPv6Unspecified(), vip6.Addr(), false).arriving())
}

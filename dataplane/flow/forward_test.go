package flow

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/service"
)

var (
	pod4, pod6   = netip.MustParseAddrPort("10.244.1.7:8080"), netip.MustParseAddrPort("[fd00:10:244:1::7]:8080")
	far4, far6   = netip.MustParseAddrPort("10.244.2.9:8080"), netip.MustParseAddrPort("[fd00:10:244:2::1209]:8080")
	front4       = netip.AddrPortFrom(node4, 0x7531) // a port that changes when its bytes are swapped
	front6       = netip.AddrPortFrom(node6, 0x7531)
	vip4, vip6   = netip.MustParseAddrPort("198.51.100.5:80"), netip.MustParseAddrPort("[2001:db8:5::5]:80")
	unspecified4 = netip.IPv4Unspecified()
	unspecified6 = netip.IPv6Unspecified()
)

// external is a service with one frontend for packets from outside.
func external(name string, protocol service.Protocol, frontend netip.AddrPort, backends ...service.Backend) service.Service {
	return service.Service{
		Name:      name,
		Frontends: []service.Frontend{{Addr: frontend.Addr(), Port: frontend.Port(), Protocol: protocol, Scope: service.ScopeExternal}},
		Backends:  backends,
	}
}

func backend(at netip.AddrPort, node string) service.Backend {
	return service.Backend{Addr: at.Addr(), Port: at.Port(), Node: node}
}

func port(addr netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr(), port)
}

// both runs a test for each family.
func both(t *testing.T, test func(t *testing.T, s *stage, f addresses)) {
	s := newStage(t)
	t.Run("IPv4", func(t *testing.T) {
		test(t, s, addresses{client4, front4, vip4, pod4, far4, unspecified4, node4, router4})
	})
	t.Run("IPv6", func(t *testing.T) {
		test(t, s, addresses{client6, front6, vip6, pod6, far6, unspecified6, node6, router6})
	})
}

type addresses struct {
	client, nodePort, vip, pod, far netip.AddrPort
	any, node, router               netip.Addr
}

func TestDeliverHere(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/tcp", service.TCP, netip.AddrPortFrom(a.any, a.nodePort.Port()), backend(a.pod, "node1")),
			external("t/udp", service.UDP, a.vip, backend(a.pod, "node1")))
		options := tcp(port(a.client, 40001), a.nodePort, tcpSYN)
		options.options = 2
		translated := options
		translated.to = a.pod
		s.check(t,
			step{"new TCP", tcp(a.client, a.nodePort, tcpSYN).arriving(), xdpPass, tcp(a.client, a.pod, tcpSYN).arriving(),
				[]string{"delivered", "event_flow_made"}},
			step{"known TCP", tcp(a.client, a.nodePort, tcpACK).arriving(), xdpPass, tcp(a.client, a.pod, tcpACK).arriving(),
				[]string{"delivered"}},
			step{"new UDP", udp(a.client, a.vip, "odd").arriving(), xdpPass, udp(a.client, a.pod, "odd").arriving(),
				[]string{"delivered", "event_flow_made"}},
			step{"known UDP", udp(a.client, a.vip, "even").arriving(), xdpPass, udp(a.client, a.pod, "even").arriving(),
				[]string{"delivered"}},
			step{"with options", options.arriving(), xdpPass, translated.arriving(), []string{"delivered", "event_flow_made"}},
			step{"another port", tcp(a.client, port(a.nodePort, 1), tcpSYN).arriving(), xdpPass, nil, []string{"no_service"}},
			step{"another protocol", udp(a.client, a.nodePort, "x").arriving(), xdpPass, nil, []string{"no_service"}},
			step{"cluster address", tcp(a.client, a.pod, tcpSYN).arriving(), xdpPass, nil, []string{"no_service"}},
		)
		if a.client.Addr().Is4() {
			in, out := udp(port(a.client, 40002), a.vip, "unsummed"), udp(port(a.client, 40002), a.pod, "unsummed")
			in.noSum, out.noSum = true, true
			s.check(t, step{"UDP without checksum", in.arriving(), xdpPass, out.arriving(), []string{"delivered", "event_flow_made"}})
		}
		flows, err := s.flows.Dump()
		if err != nil {
			t.Fatal(err)
		}
		var scopes []string
		for _, f := range flows {
			if f.Client == a.client && f.Frontend == a.nodePort && f.Backend == a.pod && f.Protocol == "TCP" && f.State == "local,established" {
				scopes = append(scopes, f.Scope)
			}
		}
		if len(scopes) != 2 || scopes[0] != "answer" || scopes[1] != "external" {
			t.Errorf("flow entries %v of %v, want one found by answers and one by packets from outside", scopes, flows)
		}
	})
}

func TestSCTPKeepsItsPort(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/same", service.SCTP, port(a.vip, 8080), backend(a.pod, "node1")),
			external("t/other", service.SCTP, a.vip, backend(a.pod, "node1")))
		s.check(t,
			step{"same port", sctp(a.client, port(a.vip, 8080)).arriving(), xdpPass, sctp(a.client, a.pod).arriving(),
				[]string{"delivered", "event_flow_made"}},
			step{"another port", sctp(a.client, a.vip).arriving(), xdpDrop, nil, []string{"sctp_port"}},
		)
	})
}

// sent is a packet as it leaves to a neighbour.
func sent(p packet, to [6]byte) []byte { return p.frame(to, nodeMAC) }

// handed is a packet as it leaves to the program at tc ingress.
func handed(p packet) []byte { return p.frame(nodeMAC, [6]byte{0x02, 0x73, 0x6b, 0x65, 0x70, 0x01}) }

func TestEncapsulate(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		hint := uint16(0x0209)
		if a.far.Addr().Is6() {
			hint = 0x1209
		}
		v6only := netip.MustParseAddr("2001:db8:2::16")
		s.set(external("t/far", service.TCP, a.vip, backend(a.far, "node2")),
			external("t/unresolved", service.UDP, a.vip, backend(a.far, "node3")),
			external("t/six", service.UDP, port(a.vip, 81), backend(a.far, "node6")))
		routed := func(p packet) packet { p.hops = 63; return p }
		inner := routed(tcp(a.client, a.vip, tcpSYN))
		expected := tunnel(node4, peer4, hint, 0, inner)
		if a.client.Addr().Is4() { // the neighbour is the same for both families
			s.check(t, step{"first packet to a neighbour", tcp(port(a.client, 1), a.vip, tcpSYN).arriving(), xdpPass,
				handed(tunnel(node4, peer4, hint, 0, routed(tcp(port(a.client, 1), a.vip, tcpSYN)))), []string{"handed_over", "event_flow_made"}})
		}
		unresolved := routed(udp(a.client, a.vip, "data"))
		six := routed(udp(a.client, port(a.vip, 81), "data"))
		s.check(t,
			step{"new", tcp(a.client, a.vip, tcpSYN).arriving(), xdpTX, sent(expected, peerMAC), []string{"encapsulated", "event_flow_made"}},
			step{"known", tcp(a.client, a.vip, tcpSYN).arriving(), xdpTX, sent(expected, peerMAC), []string{"encapsulated"}},
			step{"unresolved", udp(a.client, a.vip, "data").arriving(), xdpPass,
				handed(tunnel(node4, third4, hint, 0, unresolved)), []string{"handed_over", "event_flow_made"}},
			step{"still unresolved", udp(a.client, a.vip, "data").arriving(), xdpPass,
				handed(tunnel(node4, third4, hint, 0, unresolved)), []string{"handed_over"}},
			step{"IPv6 outside", udp(a.client, port(a.vip, 81), "data").arriving(), xdpPass,
				handed(tunnel(node6, v6only, hint, 0, six)), []string{"handed_over", "event_flow_made"}},
		)
		padded := append(udp(a.client, port(a.vip, 81), "data").arriving(), make([]byte, 10)...)
		s.check(t, step{"padding stays outside", padded, xdpPass,
			append(handed(tunnel(node6, v6only, hint, 0, six)), make([]byte, 10)...), []string{"handed_over"}})
	})
}

func TestDecapsulate(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/tcp", service.TCP, a.vip, backend(a.pod, "node1")),
			external("t/port", service.TCP, netip.AddrPortFrom(a.any, 30080), backend(a.pod, "node1")),
			external("t/away", service.UDP, a.vip, backend(a.far, "node2")))
		theirs := netip.AddrPortFrom(peer4, 30080) // a node port, asked of the other node
		if a.client.Addr().Is6() {
			theirs = netip.AddrPortFrom(peer6, 30080)
		}
		s.prime(t, udp(port(a.client, 2), a.vip, "x").arriving())
		from4 := func(p packet) []byte { return tunnel(peer4, node4, 0x0107, 0, p).arriving() }
		again := func(p packet) []byte { return tunnel(peer4, node4, 0x0107, 0x0c, p).arriving() }
		moved := udp(a.client, a.vip, "moved")
		routed := moved
		routed.hops = 63
		hint := uint16(0x0209)
		if a.far.Addr().Is6() {
			hint = 0x1209
		}
		s.check(t,
			step{"new", from4(tcp(a.client, a.vip, tcpSYN)), xdpPass, tcp(a.client, a.pod, tcpSYN).arriving(),
				[]string{"delivered", "event_flow_made", "event_decapsulated"}},
			step{"known", from4(tcp(a.client, a.vip, tcpACK)), xdpPass, tcp(a.client, a.pod, tcpACK).arriving(),
				[]string{"delivered", "event_decapsulated"}},
			step{"IPv6 outside", tunnel(peer6, node6, 0x0107, 0, tcp(a.client, a.vip, tcpACK)).arriving(), xdpPass,
				tcp(a.client, a.pod, tcpACK).arriving(), []string{"delivered", "event_decapsulated"}},
			step{"the other node's port", from4(tcp(port(a.client, 5), theirs, tcpSYN)), xdpPass, tcp(port(a.client, 5), a.pod, tcpSYN).arriving(),
				[]string{"delivered", "event_flow_made", "event_decapsulated"}},
			step{"middle of a connection", from4(tcp(port(a.client, 3), a.vip, tcpACK)), xdpPass, tcp(port(a.client, 3), a.pod, tcpACK).arriving(),
				[]string{"delivered", "event_flow_made", "event_decapsulated", "event_mid_flow"}},
			step{"backend has moved", from4(moved), xdpTX, sent(tunnel(node4, peer4, hint, 0x0c, routed), peerMAC),
				[]string{"encapsulated", "event_flow_made", "event_decapsulated", "event_another_hop"}},
			step{"moved again", again(moved), xdpDrop, nil, []string{"second_hop", "event_decapsulated"}},
			step{"moved again, new", again(udp(port(a.client, 4), a.vip, "x")), xdpDrop, nil, []string{"second_hop"}},
			step{"not for a frontend", from4(tcp(a.client, port(a.vip, 9), tcpSYN)), xdpPass, nil, []string{"foreign_tunnel"}},
			step{"from a stranger", tunnel(router4, node4, 1, 0, tcp(a.client, a.vip, tcpSYN)).arriving(), xdpPass, nil, []string{"foreign_tunnel"}},
			step{"for another host", tunnel(peer4, third4, 1, 0, tcp(a.client, a.vip, tcpSYN)).arriving(), xdpPass, nil, []string{"foreign_tunnel"}},
			step{"nothing in it", packet{from: netip.AddrPortFrom(peer4, 0), to: netip.AddrPortFrom(node4, 0), protocol: 4, raw: []byte{0x45, 0}}.arriving(),
				xdpPass, nil, []string{"foreign_tunnel"}},
		)
	})
}

func TestFramesOfVLANsArePassed(t *testing.T) {
	s := newStage(t)
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	frame := tcp(client4, vip4, tcpSYN).arriving()
	for _, kind := range []byte{0x81, 0x88} {
		tag := []byte{kind, map[byte]byte{0x81: 0x00, 0x88: 0xa8}[kind], 0, 5}
		tagged := append(append(bytes.Clone(frame[:12]), tag...), frame[12:]...)
		s.check(t, step{"tag", tagged, xdpPass, nil, []string{"vlan_tagged"}})
	}
}

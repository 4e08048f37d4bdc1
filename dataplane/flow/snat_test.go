package flow

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/service"
)

func TestTranslateOutAndBack(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		k := kindsOf(a)
		peer := peer4
		if a.client.Addr().Is6() {
			peer = peer6
		}
		s.route(t, netip.PrefixFrom(a.far.Addr(), a.far.Addr().BitLen()), peer)
		snat := external("t/snat", service.UDP, a.vip, backend(a.far, "node2"))
		snat.SNAT = true
		outside := external("t/outside", service.TCP, a.vip, backend(a.far, "")) // no node of the cluster has it
		s.set(snat, outside)
		s.prime(t, udp(port(a.client, 2), a.vip, "x").arriving())

		questions := map[string]packet{"SNAT": udp(a.client, a.vip, "question"), "outside": tcp(a.client, a.vip, tcpSYN)}
		for _, name := range []string{"SNAT", "outside"} { // the first primes the neighbour for the second
			question := questions[name]
			verdict, out, moved := s.run(question.arriving())
			if verdict != xdpTX || moved["translated_out"] != 1 || moved["event_flow_made"] != 1 {
				t.Fatalf("%s: verdict %d, counters %v", name, verdict, moved)
			}
			ours := netip.AddrPortFrom(a.node, sourcePort(question, out))
			if ours.Port() < 61000 {
				t.Errorf("%s: source %s, want a port from 61000 on", name, ours)
			}
			routed := question
			routed.from, routed.to, routed.hops = ours, a.far, 63
			answer := swap(question)
			answer.from, answer.to = a.far, ours
			back := swap(question)
			back.hops = 63
			if name == "SNAT" { // the neighbour towards the client is primed from then on
				s.run(answer.arriving())
			}
			trouble := icmp(a.far.Addr(), a.node, k.unreachable, k.port, 0, routed.ip())
			seen := question
			seen.hops = 63
			refusal := icmp(a.vip.Addr(), a.client.Addr(), k.unreachable, k.port, 0, seen.ip())
			refusal.hops = 63
			s.check(t,
				step{name + " again", question.arriving(), xdpTX, sent(routed, peerMAC), []string{"translated_out"}},
				step{name + " answer", answer.arriving(), xdpTX, sent(back, routerMAC), []string{"translated_back"}},
				step{name + " error", trouble.arriving(), xdpTX, sent(refusal, routerMAC), []string{"translated_back"}},
			)
			stranger := answer
			stranger.from = port(a.far, 9)
			s.check(t, step{name + " answer of a stranger", stranger.arriving(), xdpPass, nil, []string{"no_service"}})
		}
	})
}

func sourcePort(p packet, frame []byte) uint16 {
	if p.v4() {
		return binary.BigEndian.Uint16(frame[34:])
	}
	return binary.BigEndian.Uint16(frame[54:])
}

// Every client has a port of its own towards one backend, until all are in use.
func TestPortsRunOut(t *testing.T) {
	s := newStage(t)
	peers := map[uint16]bool{}
	s.route(t, netip.PrefixFrom(far4.Addr(), 32), peer4)
	snat := external("t/snat", service.UDP, vip4, backend(far4, "node2"))
	snat.SNAT = true
	s.set(snat)
	const ports = 65536 - 61000
	refused := 0
	for n := range uint16(ports + 1000) {
		question := udp(port(client4, 1024+n), vip4, "x")
		_, out, moved := s.run(question.arriving())
		switch {
		case moved["no_port"] == 1:
			refused++
		case moved["translated_out"]+moved["handed_over"] == 1:
			used := sourcePort(question, out)
			if peers[used] {
				t.Fatalf("port %d was given to two clients", used)
			}
			peers[used] = true
		default:
			t.Fatalf("counters %v", moved)
		}
	}
	if len(peers)+refused != ports+1000 || refused < 1000 || len(peers) < ports*9/10 {
		t.Errorf("%d of %d ports used, %d clients refused", len(peers), ports, refused)
	}
}

// A node that does not unwrap, without programs at its uplinks, gets connections translated, not wrapped. Packets that it wraps
// are accepted all the same. Connections that were wrapped end, datagrams are translated from then on, and translated flows stay so.
func TestNodeThatUnwrapsNothing(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		peer := peer4
		if a.client.Addr().Is6() {
			peer = peer6
		}
		s.route(t, netip.PrefixFrom(a.far.Addr(), a.far.Addr().BitLen()), peer)
		here := port(a.vip, 81)
		s.plane.SetNodeUnwraps("node2", false)
		s.set(external("t/far", service.TCP, a.vip, backend(a.far, "node2")), external("t/here", service.TCP, here, backend(a.pod, "node1")))
		s.set(external("t/udp", service.UDP, a.vip, backend(a.far, "node2")))
		s.plane.SetNodeUnwraps("node2", true)
		s.set()
		question, middle := udp(port(a.client, 6), a.vip, "x"), tcp(port(a.client, 7), a.vip, tcpACK)
		s.prime(t, question.arriving())
		s.prime(t, tcp(middle.from, a.vip, tcpSYN).arriving())
		s.plane.SetNodeUnwraps("node2", false)
		s.set()
		reset := tcp(a.vip, middle.from, tcpRST)
		reset.seq, reset.ack, reset.df, reset.closed = middle.ack, 0, false, true
		s.check(t, step{"the middle of a connection that was wrapped", middle.arriving(), xdpTX, answered(reset), []string{"reset", "event_flow_gone"}})
		if _, _, moved := s.run(question.arriving()); moved["translated_out"]+moved["handed_over"] != 1 || moved["event_flow_made"] != 1 {
			t.Errorf("a datagram from a port whose earlier ones were wrapped: %v, want it translated", moved)
		}
		s.prime(t, tcp(port(a.client, 2), a.vip, tcpSYN).arriving())
		began := func(from uint16, as string) {
			t.Helper()
			if _, _, moved := s.run(tcp(port(a.client, from), a.vip, tcpSYN).arriving()); moved[as] != 1 || moved["event_flow_made"] != 1 {
				t.Errorf("a connection from port %d is not %s: %v", from, as, moved)
			}
		}
		goes := func(from uint16, as string) {
			t.Helper()
			if _, _, moved := s.run(tcp(port(a.client, from), a.vip, tcpACK).arriving()); moved[as] != 1 || moved["event_flow_made"] != 0 {
				t.Errorf("the connection from port %d is not %s: %v", from, as, moved)
			}
		}
		began(3, "translated_out")
		s.check(t, step{"what it sends", tunnel(peer4, node4, 7, 0, tcp(a.client, here, tcpSYN)).arriving(), xdpPass,
			tcp(a.client, a.pod, tcpSYN).arriving(), []string{"delivered", "event_flow_made", "event_decapsulated"}})
		s.plane.SetNodeUnwraps("node2", true)
		s.set()
		goes(3, "translated_out")
		s.prime(t, tcp(port(a.client, 4), a.vip, tcpSYN).arriving())
		began(5, "encapsulated")
	})
}

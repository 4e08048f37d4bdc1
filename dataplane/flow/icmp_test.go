package flow

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/service"
)

// kinds are the ICMP messages of a family.
type kinds struct{ unreachable, port, tooBig, tooBigCode, exceeded uint8 }

func kindsOf(a addresses) kinds {
	if a.client.Addr().Is4() {
		return kinds{unreachable: 3, port: 3, tooBig: 3, tooBigCode: 4, exceeded: 11}
	}
	return kinds{unreachable: 1, port: 4, tooBig: 2, tooBigCode: 0, exceeded: 3}
}

// swap is the packet in the other direction.
func swap(p packet) packet {
	p.from, p.to = p.to, p.from
	return p
}

func TestErrorsFollowTheirFlows(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		k := kindsOf(a)
		s.set(external("t/tcp", service.TCP, a.vip, backend(a.pod, "node1")), external("t/udp", service.UDP, a.vip, backend(a.pod, "node1")),
			external("t/far", service.TCP, port(a.vip, 81), backend(a.far, "node2")))
		s.prime(t, tcp(port(a.client, 2), port(a.vip, 81), tcpSYN).arriving())
		s.run(tcp(a.client, a.vip, tcpSYN).arriving())
		s.run(udp(a.client, a.vip, "x").arriving())
		s.run(tcp(a.client, port(a.vip, 81), tcpSYN).arriving())
		onTheWay := netip.MustParseAddr("198.18.0.1")
		if a.client.Addr().Is6() {
			onTheWay = netip.MustParseAddr("2001:db8:f::1")
		}
		vip, pod := a.vip.Addr(), a.pod.Addr()
		answer := func(from netip.AddrPort) []byte { return tcp(from, a.client, tcpACK).ip() }
		datagram := func(from netip.AddrPort) []byte { return udp(from, a.client, "answer").ip() }
		far := icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400, answer(port(a.vip, 81)))
		routed := far
		routed.hops = 63
		hint := uint16(0x0209)
		if a.far.Addr().Is6() {
			hint = 0x1209
		}
		s.check(t,
			step{"too big, of TCP", icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400, answer(a.vip)).arriving(), xdpPass,
				icmp(onTheWay, pod, k.tooBig, k.tooBigCode, 1400, answer(a.pod)).arriving(), []string{"delivered"}},
			step{"cut short", icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400, quoted(a, answer(a.vip))).arriving(), xdpPass,
				icmp(onTheWay, pod, k.tooBig, k.tooBigCode, 1400, quoted(a, answer(a.pod))).arriving(), []string{"delivered"}},
			step{"port unreachable, by the client, of UDP", icmp(a.client.Addr(), vip, k.unreachable, k.port, 0, datagram(a.vip)).arriving(), xdpPass,
				icmp(a.client.Addr(), pod, k.unreachable, k.port, 0, datagram(a.pod)).arriving(), []string{"delivered"}},
			step{"of a flow to another node", far.arriving(), xdpTX, sent(tunnel(node4, peer4, hint, 0, routed), peerMAC), []string{"encapsulated"}},
			step{"of no flow", icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400, answer(port(a.vip, 9))).arriving(), xdpPass, nil, []string{"error_no_flow"}},
			step{"of a service without that flow", icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400,
				tcp(a.vip, port(a.client, 9), tcpACK).ip()).arriving(), xdpPass, nil, []string{"error_no_flow"}},
			step{"of nothing readable", icmp(onTheWay, vip, k.tooBig, k.tooBigCode, 1400, []byte{1, 2, 3, 4}).arriving(), xdpPass, nil,
				[]string{"other_protocol"}},
		)
	})
}

// quoted is what the shortest ICMP error has of a packet: its IP header and 8 bytes.
func quoted(a addresses, p []byte) []byte {
	if a.client.Addr().Is4() {
		return p[:28]
	}
	return p[:48]
}

func TestTooBigForTheTunnel(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		k := kindsOf(a)
		s.set(external("t/udp", service.UDP, a.vip, backend(a.far, "node2")))
		s.prime(t, udp(port(a.client, 2), a.vip, "x").arriving())
		header := 28
		if a.client.Addr().Is6() {
			header = 48
		}
		fits := udp(a.client, a.vip, string(bytes.Repeat([]byte("a"), 1480-header)))
		_, _, moved := s.run(fits.arriving())
		if moved["encapsulated"] != 1 {
			t.Errorf("1480 bytes: counters %v, want them encapsulated in 1500", moved)
		}
		large := udp(a.client, a.vip, string(bytes.Repeat([]byte("a"), 1481-header)))
		s.check(t, step{"1481 bytes", large.arriving(), xdpTX,
			answered(icmp(a.vip.Addr(), a.client.Addr(), k.tooBig, k.tooBigCode, 1480, large.ip()[:256])), []string{"too_big"}})
		fromPeer := tunnel(peer4, node4, 1, 0, large)
		_, out, moved := s.run(fromPeer.arriving())
		if moved["too_big"]+moved["handed_over"] != 1 || !bytes.Equal(out[14:], icmp(a.vip.Addr(), a.client.Addr(), k.tooBig, k.tooBigCode, 1480, large.ip()[:256]).ip()) {
			t.Errorf("1481 bytes from another node: counters %v", moved)
			diffFrames(t, out, answered(icmp(a.vip.Addr(), a.client.Addr(), k.tooBig, k.tooBigCode, 1480, large.ip()[:256])))
		}
	})
}

func TestHopsRunOut(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		k := kindsOf(a)
		s.set(external("t/tcp", service.TCP, a.vip, backend(a.pod, "node1")), external("t/far", service.TCP, port(a.vip, 81), backend(a.far, "node2")))
		for _, to := range []netip.AddrPort{a.vip, port(a.vip, 81)} {
			last := tcp(a.client, to, tcpSYN)
			last.hops = 1
			s.check(t, step{to.String(), last.arriving(), xdpTX,
				answered(icmp(a.vip.Addr(), a.client.Addr(), k.exceeded, 0, 0, last.ip())), []string{"time_exceeded", "event_flow_made"}})
		}
	})
}

// route adds a route of the stage's namespace.
func (s *stage) route(t *testing.T, to netip.Prefix, gateway netip.Addr) {
	t.Helper()
	s.Do(func() error {
		_, destination, err := netParse(to)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: s.index, Dst: destination, Gw: gateway.AsSlice()})
	})
}

func netParse(prefix netip.Prefix) (net.IP, *net.IPNet, error) { return net.ParseCIDR(prefix.String()) }

// Of ICMP errors at most a thousand of a kind leave a CPU in one second, which the burst below, all in one call of the
// kernel, cannot outlast more than once.
func TestAnswersAreLimited(t *testing.T) {
	for _, a := range []addresses{{client: client4, vip: vip4}, {client: client6, vip: vip6}} {
		s := newStage(t)
		s.set(external("t/udp", service.UDP, a.vip))
		const burst = 5000
		before, err := s.flows.Counters()
		if err != nil {
			t.Fatal(err)
		}
		frame := udp(a.client, a.vip, "x").arriving()
		s.Do(func() error {
			if err := onOneCPU(); err != nil {
				return err
			}
			for range burst {
				_, err := s.program.Run(&ebpf.RunOptions{Data: frame, Context: xdpContext{DataEnd: uint32(len(frame)), IngressIfindex: uint32(s.index)}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		after, err := s.flows.Counters()
		if err != nil {
			t.Fatal(err)
		}
		sent, limited := after["unreachable"]-before["unreachable"], after["answer_limited"]-before["answer_limited"]
		if sent+limited != burst || sent < 1000 || limited == 0 {
			t.Errorf("%d ICMP errors sent and %d held back of %d, want 1000 in a second", sent, limited, burst)
		}
	}
}

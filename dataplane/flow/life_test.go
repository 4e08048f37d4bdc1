package flow

import (
	"net/netip"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/service"
)

// destination runs a packet and returns its new destination, which says to which backend it was sent.
func (s *stage) destination(t *testing.T, p packet) netip.Addr {
	t.Helper()
	verdict, out, moved := s.run(p.arriving())
	if verdict != xdpPass || moved["delivered"] != 1 {
		t.Fatalf("verdict %d, counters %v, want the packet delivered", verdict, moved)
	}
	if p.v4() {
		return netip.AddrFrom4([4]byte(out[30:34]))
	}
	return netip.AddrFrom16([16]byte(out[38:54]))
}

func two(a addresses) (first, second service.Backend) {
	other := netip.AddrPortFrom(a.pod.Addr().Next(), 8080)
	return backend(a.pod, "node1"), backend(other, "node1")
}

func TestSynAfterTheEndBeginsAnew(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		first, second := two(a)
		s.set(external("t/tcp", service.TCP, a.vip, first, second))
		for name, end := range map[string]uint8{"FIN": tcpFIN | tcpACK, "RST": tcpRST} {
			before := s.destination(t, tcp(a.client, a.vip, tcpSYN))
			for _, flags := range []uint8{tcpSYN, tcpACK, end, tcpACK} { // a SYN that is repeated, and what follows the end
				if got := s.destination(t, tcp(a.client, a.vip, flags)); got != before {
					t.Errorf("%s: packet with flags %#x went to %s, the flow's backend is %s", name, flags, got, before)
				}
			}
			// Two turns later the first backend would be next again: new means the other one.
			if got := s.destination(t, tcp(a.client, a.vip, tcpSYN)); got == before {
				t.Errorf("%s: a new connection from a port whose last one ended went to %s again, want its own turn", name, got)
			}
			s.destination(t, tcp(a.client, a.vip, end))
		}
	})
}

func TestBackendGone(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		first, second := two(a)
		s.set(external("t/tcp", service.TCP, a.vip, first), external("t/udp", service.UDP, a.vip, first))
		s.destination(t, tcp(a.client, a.vip, tcpSYN))
		s.destination(t, udp(a.client, a.vip, "x"))

		draining := first
		draining.State = service.Terminating
		s.set(external("t/tcp", service.TCP, a.vip, draining, second), external("t/udp", service.UDP, a.vip, draining, second))
		if got := s.destination(t, tcp(a.client, a.vip, tcpACK)); got != first.Addr {
			t.Errorf("a connection to a draining backend went on to %s, want %s", got, first.Addr)
		}
		if got := s.destination(t, tcp(port(a.client, 2), a.vip, tcpSYN)); got != second.Addr {
			t.Errorf("a new connection went to the draining backend %s", got)
		}

		s.set(external("t/tcp", service.TCP, a.vip, second), external("t/udp", service.UDP, a.vip, second))
		middle := tcp(a.client, a.vip, tcpACK)
		reset := tcp(a.vip, a.client, tcpRST)
		reset.seq, reset.ack, reset.df, reset.closed = middle.ack, 0, false, true
		newSYN := tcp(a.client, second4(second), tcpSYN).arriving()
		udpAnew := udp(a.client, second4(second), "x").arriving()
		s.check(t,
			step{"middle of the connection", middle.arriving(), xdpTX, answered(reset), []string{"reset", "event_flow_gone"}},
			step{"its end", tcp(a.client, a.vip, tcpRST).arriving(), xdpDrop, nil, []string{"no_answer", "event_flow_gone"}},
			step{"SYN", tcp(a.client, a.vip, tcpSYN).arriving(), xdpPass, newSYN, []string{"delivered", "event_flow_gone", "event_flow_made"}},
			step{"UDP", udp(a.client, a.vip, "x").arriving(), xdpPass, udpAnew, []string{"delivered", "event_flow_gone", "event_flow_made"}},
		)
		s.plane.SetNodeDown("node1", true)
		s.set()
		s.check(t, step{"its node is down", tcp(a.client, a.vip, tcpSYN).arriving(), xdpTX, resetOfSYN(a), []string{"reset", "event_flow_gone"}})
		s.plane.SetNodeDown("node1", false)
		s.set()
	})
}

func second4(b service.Backend) netip.AddrPort { return netip.AddrPortFrom(b.Addr, b.Port) }

// answered is a packet that goes back to the router.
func answered(p packet) []byte { return p.frame(routerMAC, nodeMAC) }

// resetOfSYN is what a SYN to the virtual address gets where there is no backend (RFC 9293, 3.5.2).
func resetOfSYN(a addresses) []byte {
	syn := tcp(a.client, a.vip, tcpSYN)
	reset := tcp(a.vip, a.client, tcpRST|tcpACK)
	reset.seq, reset.ack, reset.df, reset.closed = 0, syn.seq+1, false, true
	return answered(reset)
}

func TestNobodyListens(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/tcp", service.TCP, a.vip), external("t/udp", service.UDP, a.vip),
			service.Service{Name: "t/local", Backends: []service.Backend{backend(a.far, "node2")}, Frontends: []service.Frontend{
				{Addr: a.vip.Addr(), Port: 82, Protocol: service.TCP, Scope: service.ScopeExternal, Local: true}}})
		datagram := udp(a.client, a.vip, "datagrams")
		s.check(t,
			step{"TCP", tcp(a.client, a.vip, tcpSYN).arriving(), xdpTX, resetOfSYN(a), []string{"reset"}},
			step{"RST of nothing", tcp(a.client, a.vip, tcpRST).arriving(), xdpDrop, nil, []string{"no_flow"}},
			step{"SYN+ACK of nothing", tcp(a.client, a.vip, tcpSYN|tcpACK).arriving(), xdpDrop, nil, []string{"no_flow"}},
			step{"UDP", datagram.arriving(), xdpTX, unreachable(a, datagram), []string{"unreachable"}},
			step{"policy Local", tcp(a.client, port(a.vip, 82), tcpSYN).arriving(), xdpDrop, nil, []string{"no_local_backend"}},
		)
	})
}

func unreachable(a addresses, about packet) []byte {
	quote := about.ip()
	quote = quote[:len(quote)&^3]
	if about.v4() {
		return answered(icmp(about.to.Addr(), about.from.Addr(), 3, 3, 0, quote))
	}
	return answered(icmp(about.to.Addr(), about.from.Addr(), 1, 4, 0, quote))
}

func TestSourceRanges(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(service.Service{Name: "t/tcp", Backends: []service.Backend{backend(a.pod, "node1")},
			SourceRanges: []netip.Prefix{netip.PrefixFrom(a.client.Addr(), a.client.Addr().BitLen())},
			Frontends:    []service.Frontend{{Addr: a.vip.Addr(), Port: a.vip.Port(), Protocol: service.TCP, Scope: service.ScopeExternal, Restricted: true}}})
		stranger := netip.AddrPortFrom(a.client.Addr().Next(), 1)
		s.check(t,
			step{"let in", tcp(a.client, a.vip, tcpSYN).arriving(), xdpPass, tcp(a.client, a.pod, tcpSYN).arriving(),
				[]string{"delivered", "event_flow_made"}},
			step{"kept out", tcp(stranger, a.vip, tcpSYN).arriving(), xdpDrop, nil, []string{"source_refused"}},
		)
	})
}

func TestMiddleOfConnections(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		first, second := two(a)
		maglev := external("t/maglev", service.TCP, a.vip, first, second)
		maglev.Selection = service.Maglev
		s.set(maglev, external("t/one", service.TCP, port(a.vip, 81), first))
		for n := range uint16(16) {
			client := port(a.client, 50000+n)
			before := s.destination(t, tcp(client, a.vip, tcpSYN))
			s.forget(t)
			if got := s.destination(t, tcp(client, a.vip, tcpACK)); got != before {
				t.Errorf("Maglev: without its flow a connection to %s went on to %s", before, got)
			}
		}
		s.check(t, step{"one backend", tcp(a.client, port(a.vip, 81), tcpACK).arriving(), xdpPass,
			tcp(a.client, second4(first), tcpACK).arriving(), []string{"delivered", "event_flow_made", "event_mid_flow"}})
	})
}

// forget empties the flow table, as if another node had had the flows.
func (s *stage) forget(t *testing.T) {
	t.Helper()
	s.forgetRecent(t)
	s.forgetFlows(t)
}

// age makes every flow look as if its last packet had come that long ago.
func (s *stage) age(t *testing.T, by time.Duration) {
	t.Helper()
	s.forgetRecent(t)
	flows, err := s.flows.maps.flows.All()
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range flows {
		value.Used -= uint64(by)
		if err := s.flows.maps.flows.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlowsEndWhenIdle(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		first, second := two(a)
		s.set(external("t/tcp", service.TCP, a.vip, first, second), external("t/udp", service.UDP, a.vip, first, second))
		began := map[string]packet{
			"opening":     tcp(port(a.client, 1), a.vip, tcpSYN),
			"established": tcp(port(a.client, 2), a.vip, tcpSYN),
			"UDP":         udp(port(a.client, 3), a.vip, "x"),
		}
		to := map[string]netip.Addr{}
		for name, p := range began {
			to[name] = s.destination(t, p)
		}
		s.destination(t, tcp(port(a.client, 2), a.vip, tcpACK))
		s.age(t, 119*time.Second)
		for name, p := range began {
			if got := s.destination(t, p); got != to[name] {
				t.Errorf("%s: after 119 s idle went to %s, want %s still", name, got, to[name])
			}
		}
		s.age(t, 121*time.Second)
		for name, p := range began {
			_, _, moved := s.run(p.arriving())
			if made := moved["event_flow_made"] == 1; made != (name != "established") {
				t.Errorf("%s: after 121 s idle counters %v", name, moved)
			}
		}
		s.age(t, 24*time.Hour+time.Second)
		if _, _, moved := s.run(began["established"].arriving()); moved["event_flow_made"] != 1 {
			t.Errorf("established: after a day idle counters %v, want a new flow", moved)
		}
	})
}

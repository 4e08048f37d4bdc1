package service

import (
	"net/netip"
	"testing"
	"time"
)

// Every way in which a backend may stop being one is reported, once.
func TestDepartures(t *testing.T) {
	p := newStage(t).open(t)
	gone := p.Gone()
	expect := func(want ...Departure) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-gone:
				if got != w {
					t.Errorf("departure %+v, want %+v", got, w)
				}
			case <-time.After(deadline):
				t.Fatalf("no departure, want %+v", w)
			}
		}
	}
	set := func(services ...Service) {
		t.Helper()
		for _, s := range services {
			p.SetService(s)
		}
		flush(t, p)
	}
	departure := func(service, address string, protocol Protocol) Departure {
		f := frontend(address, protocol)
		return Departure{Service: service, Addr: f.Addr, Port: f.Port, Protocol: protocol}
	}
	tcp := serviceOf("default/a:http", TCP, "10.96.0.1:80", three...)
	udp := serviceOf("default/b:dns", UDP, "10.96.0.1:53", three...)
	also := serviceOf("default/c:http", TCP, "10.96.0.3:80", three[0])
	set(tcp, udp, also)

	// Removed from one service, still in another.
	tcp.Backends = tcp.Backends[1:]
	set(tcp)
	expect(departure("default/a:http", three[0], TCP))
	// The last service that had it.
	p.DeleteService("default/c:http")
	last := departure("default/c:http", three[0], TCP)
	last.Last = true
	expect(last)
	// Terminating: reported for UDP, whose sockets get no other sign of it.
	tcp.Backends[0].State, udp.Backends[0].State = Terminating, Terminating
	set(tcp, udp)
	draining := departure("default/b:dns", three[0], UDP)
	draining.Draining = true
	expect(draining)
	// All are terminating: the one that takes connections again, and is reported again later.
	udp.Backends[1].State, udp.Backends[2].State = Terminating, Terminating
	set(udp)
	udp.Backends[1].State, udp.Backends[2].State = Active, Active
	set(udp)
	expect(draining)
	// The pod has ended, and the services are not updated yet.
	p.WithdrawAddress(netip.MustParseAddr("127.0.1.3"))
	a, b := departure("default/a:http", three[2], TCP), departure("default/b:dns", three[2], UDP)
	a.Withdrawn, b.Withdrawn = true, true
	expect(a, b)
	tcp.Backends = tcp.Backends[:1]
	set(tcp)
	a.Last = true
	expect(a)
	p.Close()
	if got, open := <-gone; open {
		t.Errorf("departure %+v after Close", got)
	}
}

// kubernetes 122740: backends removed while no agent ran are reported by the next one.
func TestDeparturesWhileAway(t *testing.T) {
	s := newStage(t)
	p := s.open(t)
	p.SetService(serviceOf("default/dns:dns", UDP, "10.96.0.1:53", three...))
	p.SetService(serviceOf("default/old:dns", UDP, "10.96.0.2:53", "127.0.5.5:53"))
	flush(t, p)
	p.Close()
	next := s.open(t)
	gone := next.Gone()
	next.SetService(serviceOf("default/dns:dns", UDP, "10.96.0.1:53", three[0], three[1]))
	next.Synced()
	flush(t, next)
	seen := map[string]bool{}
	for range 2 {
		select {
		case d := <-gone:
			seen[netip.AddrPortFrom(d.Addr, d.Port).String()] = d.Last
		case <-time.After(deadline):
			t.Fatalf("reported %v only", seen)
		}
	}
	if !seen[three[2]] || !seen["127.0.5.5:53"] {
		t.Errorf("reported %v", seen)
	}
}

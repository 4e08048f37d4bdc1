package service

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// activeOf reads how many sockets each backend counts.
func activeOf(t *testing.T, p *Plane) map[string]uint32 {
	t.Helper()
	active := map[string]uint32{}
	for _, b := range dump(t, p).Backends {
		active[b.Address.String()] = uint32(b.Weight)
	}
	return active
}

// Connections count until they are closed, whichever way, and new ones go where
// the fewest are.
func TestLeastConnectionsCountsSockets(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, TCP, address)
	}
	service := serviceOf("default/web:http", TCP, "10.96.0.1:80", three...)
	service.Selection = LeastConnections
	p.SetService(service)
	p.SetService(serviceOf("default/plain:http", TCP, "10.96.0.2:80", three[0]))
	flush(t, p)
	open := map[string][]net.Conn{}
	dial := func() string {
		t.Helper()
		conn, err := net.Dial("tcp4", "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if got := conn.RemoteAddr().String(); got != "10.96.0.1:80" {
			t.Errorf("peer is %s", got)
		}
		buffer := make([]byte, 64)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		at := string(buffer[:n-1])
		open[at] = append(open[at], conn)
		return at
	}
	for range 9 {
		dial()
	}
	for _, address := range three {
		if n := activeOf(t, p)[address]; n != 3 || len(open[address]) != 3 {
			t.Errorf("%s: %d sockets counted, %d open, want 3", address, n, len(open[address]))
		}
	}
	for _, conn := range open[three[1]] {
		conn.Close()
	}
	if n := activeOf(t, p)[three[1]]; n != 0 {
		t.Errorf("%d sockets counted after all were closed", n)
	}
	for i := range 3 {
		if at := dial(); at != three[1] {
			t.Errorf("connection %d went to %s, not to the idle backend", i, at)
		}
	}
	// A socket of another service is not counted.
	before := activeOf(t, p)
	conn, err := net.Dial("tcp4", "10.96.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for address, n := range activeOf(t, p) {
		if n != before[address] {
			t.Errorf("%s counts %d sockets, %d before", address, n, before[address])
		}
	}
}

// A socket that connects again moves its count; one whose backend was removed is
// not subtracted from the next backend with that id.
func TestLeastConnectionsFollowsTheSocket(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	service := serviceOf("default/dns:udp", UDP, "10.96.0.1:53", three[0], three[1])
	service.Selection = LeastConnections
	p.SetService(service)
	flush(t, p)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	sum := func() (n uint32) {
		for _, active := range activeOf(t, p) {
			n += active
		}
		return n
	}
	for range 5 {
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: 53}); err != nil {
			t.Fatal(err)
		}
		if n := sum(); n != 1 {
			t.Errorf("one socket counts as %d", n)
		}
	}
	next := service
	next.Backends = []Backend{backend(three[2])}
	p.SetService(next)
	flush(t, p)
	p.SetService(service)
	flush(t, p)
	if n := sum(); n != 0 {
		t.Errorf("backends that are new count %d sockets", n)
	}
	unix.Close(fd)
	if n := sum(); n != 0 {
		t.Errorf("closing a socket of a backend that had gone left %d", int32(n))
	}
}

// cilium 48715: a client's affinity never leads a new connection to a backend
// that is terminating or removed.
func TestAffinityLeavesTerminatingBackends(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := serviceOf("default/web:http", TCP, "10.96.0.1:80", three...)
	service.AffinityTimeout = 1 << 40
	p.SetService(service)
	flush(t, p)
	first, _ := s.run(service.Frontends[0], 7)
	for i := range service.Backends {
		if service.Backends[i].Addr == first.Addr {
			service.Backends[i].State = Terminating
		}
	}
	p.SetService(service)
	flush(t, p)
	second, _ := s.run(service.Frontends[0], 7)
	if second.Addr == first.Addr {
		t.Errorf("pinned to %v, which is terminating", first)
	}
	for range 3 {
		if got, _ := s.run(service.Frontends[0], 7); got != second {
			t.Errorf("pinned to %v, then %v", second, got)
		}
	}
	restored := p.WithdrawAddress(second.Addr)
	third, _ := s.run(service.Frontends[0], 7)
	if third.Addr == second.Addr || third.Addr == first.Addr {
		t.Errorf("led to %v", third)
	}
	restored()
	flush(t, p)
	if got, _ := s.run(service.Frontends[0], 7); got != third {
		t.Errorf("pinned to %v, then %v", third, got)
	}
	// The id of a removed backend may be another's now.
	p.DeleteService(service.Name)
	flush(t, p)
	p.SetService(serviceOf("default/other:http", TCP, "10.96.0.2:80", three...))
	p.SetService(serviceOf(service.Name, TCP, "10.96.0.1:80", "10.244.9.9:80"))
	flush(t, p)
	if got, _ := s.run(service.Frontends[0], 7); got.Addr != netip.MustParseAddr("10.244.9.9") {
		t.Errorf("led to %v", got)
	}
}

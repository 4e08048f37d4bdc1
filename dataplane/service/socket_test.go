package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var three = []string{"127.0.1.1:8080", "127.0.1.2:8080", "127.0.1.3:8080"}

func serviceOf(name string, protocol Protocol, address string, backends ...string) Service {
	s := Service{Name: name, Frontends: []Frontend{frontend(address, protocol)}}
	for _, b := range backends {
		s.Backends = append(s.Backends, backend(b))
	}
	return s
}

func TestTCPRoundRobinInTurn(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, TCP, address)
	}
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...))
	flush(t, p)
	var turns []string
	for range 30 {
		from, err := ask("tcp4", "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, from)
	}
	for i, from := range turns {
		if from != three[i%3] {
			t.Fatalf("connection %d went to %s, not in turn: %v", i, from, turns)
		}
	}
	d := dump(t, p)
	if got := d.Services[0].Connections; got != 30 {
		t.Errorf("service counts %d connections, want 30", got)
	}
	for _, b := range d.Backends {
		if b.Connections != 10 || b.State != "active" || b.Node != "node1" {
			t.Errorf("backend %+v, want 10 connections, active, on node1", b)
		}
	}
	wantCounters(t, d, map[string]uint64{"translated": 30, "reversed": 30, "not_reversed": 30})
}

// wantCounters fails unless exactly the named counters are not zero. The kernel
// asks for the peer once for each accept, and Go once for each dial.
func wantCounters(t *testing.T, d *Dump, want map[string]uint64) {
	t.Helper()
	for label, got := range d.Counters {
		if got != want[label] {
			t.Errorf("counter %s is %d, want %d", label, got, want[label])
		}
	}
}

func TestPeerIsTheService(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	cases := []struct{ network, frontend, dial, backend string }{
		{"tcp4", "10.96.0.1:80", "10.96.0.1:80", "127.0.1.1:8080"},
		{"udp4", "10.96.0.1:53", "10.96.0.1:53", "127.0.1.1:5353"},
		{"tcp6", "[fd00:96::1]:80", "[fd00:96::1]:80", "[fd00::1]:8080"},
		{"udp6", "[fd00:96::1]:53", "[fd00:96::1]:53", "[fd00::1]:5353"},
	}
	for i, c := range cases {
		protocol := TCP
		if c.network[:3] == "udp" {
			protocol = UDP
		}
		serve(t, protocol, c.backend)
		p.SetService(serviceOf(fmt.Sprintf("default/s%d:p", i), protocol, c.frontend, c.backend))
	}
	flush(t, p)
	for _, c := range cases {
		conn, err := net.Dial(c.network, c.dial)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != c.dial {
			t.Errorf("%s %s: peer is %s", c.network, c.dial, got)
		}
		conn.SetDeadline(time.Now().Add(deadline))
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64)
		var n int
		if udp, ok := conn.(*net.UDPConn); ok {
			var from netip.AddrPort
			if n, from, err = udp.ReadFromUDPAddrPort(buffer); from.String() != c.dial {
				t.Errorf("%s %s: datagram from %s", c.network, c.dial, from)
			}
		} else {
			n, err = conn.Read(buffer)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := string(buffer[:min(n, len(c.backend))]); got != c.backend {
			t.Errorf("%s %s: answered by %q, want %s", c.network, c.dial, got, c.backend)
		}
	}
	// The same backend asked for by its own address is itself.
	for _, c := range cases {
		conn, err := net.Dial(c.network, c.backend)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != c.backend {
			t.Errorf("%s %s asked for directly: peer is %s", c.network, c.backend, got)
		}
	}
}

// mappedSocket is an AF_INET6 socket, which Go's dialer never uses for IPv4.
func mappedSocket(t *testing.T, kind int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func sockaddr6(address string) *unix.SockaddrInet6 {
	a := netip.MustParseAddrPort(address)
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addressOf(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
	}
	return fmt.Sprintf("%T", sa)
}

func TestMappedIPv6Sockets(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	serve(t, TCP, "127.0.1.1:8080")
	serve(t, UDP, "127.0.1.1:5353")
	p.SetService(serviceOf("default/web:http", TCP, "10.96.12.34:80", "127.0.1.1:8080"))
	p.SetService(serviceOf("default/dns:dns", UDP, "10.96.12.34:53", "127.0.1.1:5353"))
	flush(t, p)
	buffer := make([]byte, 64)

	tcp := mappedSocket(t, unix.SOCK_STREAM)
	if err := unix.Connect(tcp, sockaddr6("10.96.12.34:80")); err != nil {
		t.Fatal("connect of a mapped TCP socket: ", err)
	}
	peer, err := unix.Getpeername(tcp)
	if err != nil || addressOf(peer) != "10.96.12.34:80" {
		t.Errorf("peer of a mapped TCP socket is %s, %v", addressOf(peer), err)
	}
	n, err := unix.Read(tcp, buffer)
	if err != nil || string(buffer[:n]) != "127.0.1.1:8080\n" {
		t.Errorf("read %q, %v", buffer[:n], err)
	}

	udp := mappedSocket(t, unix.SOCK_DGRAM)
	if err := unix.Sendto(udp, []byte("?"), 0, sockaddr6("10.96.12.34:53")); err != nil {
		t.Fatal("sendto of a mapped UDP socket: ", err)
	}
	n, from, err := unix.Recvfrom(udp, buffer, 0)
	if err != nil || string(buffer[:n]) != "127.0.1.1:5353" || addressOf(from) != "10.96.12.34:53" {
		t.Errorf("received %q from %s, %v", buffer[:n], addressOf(from), err)
	}
}

func TestUnconnectedUDP(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, UDP, address)
	}
	p.SetService(serviceOf("default/dns:dns", UDP, "10.96.0.10:53", three...))
	flush(t, p)
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange := func(to string) (answer, from string) {
		t.Helper()
		if _, err := conn.WriteToUDPAddrPort([]byte("?"), netip.MustParseAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(deadline))
		buffer := make([]byte, 64)
		n, source, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n]), source.String()
	}
	for i := range 9 {
		if answer, from := exchange("10.96.0.10:53"); answer != three[i%3] || from != "10.96.0.10:53" {
			t.Errorf("datagram %d answered by %s from %s", i, answer, from)
		}
	}
	// The same socket may also speak to a backend itself, and back.
	if answer, from := exchange(three[1]); answer != three[1] || from != three[1] {
		t.Errorf("asked %s, answered by %s from %s", three[1], answer, from)
	}
	if answer, from := exchange("10.96.0.10:53"); answer != three[0] || from != "10.96.0.10:53" {
		t.Errorf("answered by %s from %s", answer, from)
	}
}

// A server must see its clients as they are, even if a client's own address is
// a backend: replies to the service would go to another one.
func TestReceiverThatNeverAskedSeesTheBackend(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	p.SetService(serviceOf("default/gossip:udp", UDP, "10.96.0.10:7946", "127.0.1.1:7946", "127.0.1.2:7946"))
	flush(t, p)
	member := func(address string) *net.UDPConn {
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	one, two := member("127.0.1.1:7946"), member("127.0.1.2:7946")
	if _, err := one.WriteToUDPAddrPort([]byte("ping"), netip.MustParseAddrPort("127.0.1.2:7946")); err != nil {
		t.Fatal(err)
	}
	two.SetDeadline(time.Now().Add(deadline))
	_, from, err := two.ReadFromUDPAddrPort(make([]byte, 16))
	if err != nil || from.String() != "127.0.1.1:7946" {
		t.Errorf("received from %s, %v", from, err)
	}
}

func TestNoBackendIsRefusedAtOnce(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	p.SetService(serviceOf("default/tcp:p", TCP, "10.96.0.1:80"))
	p.SetService(serviceOf("default/udp:p", UDP, "10.96.0.1:53"))
	p.SetService(serviceOf("default/tcp6:p", TCP, "[fd00:96::1]:80"))
	p.SetService(serviceOf("default/udp6:p", UDP, "[fd00:96::1]:53"))
	flush(t, p)
	connect := func(family, kind int, to unix.Sockaddr) error {
		fd, err := unix.Socket(family, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.Connect(fd, to)
	}
	send := func(family int, to unix.Sockaddr) error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("?"), 0, to)
	}
	four := func(port int) unix.Sockaddr { return &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: port} }
	results := map[string]error{
		"connect tcp4":        connect(unix.AF_INET, unix.SOCK_STREAM, four(80)),
		"connect udp4":        connect(unix.AF_INET, unix.SOCK_DGRAM, four(53)),
		"connect tcp6":        connect(unix.AF_INET6, unix.SOCK_STREAM, sockaddr6("[fd00:96::1]:80")),
		"connect udp6":        connect(unix.AF_INET6, unix.SOCK_DGRAM, sockaddr6("[fd00:96::1]:53")),
		"connect tcp4 mapped": connect(unix.AF_INET6, unix.SOCK_STREAM, sockaddr6("10.96.0.1:80")),
		"sendto udp4":         send(unix.AF_INET, four(53)),
		"sendto udp6":         send(unix.AF_INET6, sockaddr6("[fd00:96::1]:53")),
		"sendto udp4 mapped":  send(unix.AF_INET6, sockaddr6("10.96.0.1:53")),
	}
	for name, err := range results {
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want ECONNREFUSED", name, err)
		}
	}
	wantCounters(t, dump(t, p), map[string]uint64{"no_backend": uint64(len(results))})
}

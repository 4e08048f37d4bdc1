package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

func init() { children["ask"] = askAsChild }

// askAsChild prints which backend answers at the address in SKEP_TEST_ASK, from a network
// namespace of its own.
func askAsChild() error {
	if err := sandbox.Loopback(); err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", os.Getenv("SKEP_TEST_ASK"), deadline)
	if err == nil {
		conn.Close()
		return errors.New("connected")
	}
	fmt.Println(errors.Is(err, unix.ECONNREFUSED))
	return nil
}

// A node port answers at every address of the node and, for the host's own
// sockets, on loopback; a pod's loopback is the pod's.
func TestNodePortAnswersAtEveryAddress(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	serve(t, TCP, "127.0.1.1:8080")
	serve(t, TCP, "[fd00::1]:8080")
	service := serviceOf("default/web:http", TCP, "10.96.0.1:80", "127.0.1.1:8080", "[fd00::1]:8080")
	for _, any := range []string{"0.0.0.0:30080", "[::]:30080"} {
		service.Frontends = append(service.Frontends, frontend(any, TCP))
	}
	p.SetService(service)
	p.SetAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")})
	flush(t, p)
	for _, address := range []string{"192.0.2.1:30080", "127.0.0.1:30080", "127.9.9.9:30080", "[2001:db8::1]:30080", "[::1]:30080"} {
		conn, err := net.DialTimeout("tcp", address, deadline)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := conn.RemoteAddr().String(); got != address {
			t.Errorf("asked for %s, peer is %s", address, got)
		}
		conn.Close()
	}
	for _, zero := range []unix.Sockaddr{&unix.SockaddrInet4{Port: 30080}, &unix.SockaddrInet6{Port: 30080}} {
		family := unix.AF_INET
		if _, six := zero.(*unix.SockaddrInet6); six {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, zero); err != nil {
			t.Errorf("connect to any address %T: %v", zero, err)
		}
		unix.Close(fd)
	}
	// Neither another port nor another host's address.
	before := dump(t, p).Counters["translated"]
	for _, address := range []string{"127.0.0.1:30081", "[::1]:30081"} {
		if conn, err := net.DialTimeout("tcp", address, deadline); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, %v", address, conn, err)
		}
	}
	// A pod has a loopback of its own, where nothing listens.
	for _, address := range []string{"127.0.0.1:30080", "[::1]:30080"} {
		child := sandbox.AsChild(s.command(t), "ask", "SKEP_TEST_ASK="+address)
		out, err := child.Output()
		if err != nil || string(out) != "true\n" {
			t.Errorf("%s in another namespace: refused %q, %v", address, out, err)
		}
	}
	if after := dump(t, p).Counters["translated"]; after != before {
		t.Errorf("%d connections were translated that ask for nothing of ours", after-before)
	}
	p.SetAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.2")})
	flush(t, p)
	if d := dump(t, p); len(d.Addresses) != 1 || d.Addresses[0].Address.String() != "192.0.2.2" {
		t.Errorf("addresses %+v", d.Addresses)
	}
}

// What sockets asked for is stored for a node port; for the cluster address beside
// it, which nearly all sockets use, it is not.
func TestOnlyExceptionsAreRemembered(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	serve(t, TCP, three[0])
	a := serviceOf("default/a:http", TCP, "10.96.0.1:80", three[0])
	a.Frontends = append(a.Frontends, frontend("0.0.0.0:30080", TCP), frontend("192.0.2.7:80", TCP))
	p.SetService(a)
	p.SetService(serviceOf("default/b:http", TCP, "10.96.0.2:80", three[0]))
	flush(t, p)
	stored := func() uint64 { return dump(t, p).Counters["origin_stored"] }
	for _, c := range []struct {
		address string
		stores  uint64
	}{
		{"10.96.0.1:80", 0},    // the one that is derived
		{"127.0.0.1:30080", 1}, // another frontend of it
		{"192.0.2.7:80", 1},
		{"10.96.0.2:80", 1}, // another service with the same backend
		{three[0], 1},       // the backend itself
		{"10.96.0.1:80", 0},
	} {
		before := stored()
		conn, err := net.Dial("tcp4", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != c.address {
			t.Errorf("asked for %s, peer is %s", c.address, got)
		}
		if n := stored() - before; n != c.stores {
			t.Errorf("%s: %d origins stored, want %d", c.address, n, c.stores)
		}
	}
	// When the service that is derived is deleted, sockets without a stored address
	// do not see another's, and so the other's are still stored.
	old, err := net.Dial("tcp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	p.DeleteService("default/a:http")
	flush(t, p)
	if got := peerName(t, old); got != three[0] {
		t.Errorf("asked for a service that is gone: peer is %s, want the backend", got)
	}
	before := stored()
	conn, err := net.Dial("tcp4", "10.96.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != "10.96.0.2:80" || stored() != before+1 {
		t.Errorf("peer is %s, %d origins stored", got, stored()-before)
	}
}

// peerName asks the kernel again: Go keeps the first answer.
func peerName(t *testing.T, conn net.Conn) string {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var peer unix.Sockaddr
	if controlErr := raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return addressOf(peer)
}

// However many sockets come after it, a socket sees what it asked for.
func TestOriginsAreNeverOverwritten(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	a := serviceOf("default/a:udp", UDP, "10.96.0.1:80", three[0])
	a.Frontends = append(a.Frontends, frontend("10.96.0.2:80", UDP))
	p.SetService(a)
	flush(t, p)
	second := &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 2}, Port: 80}
	connected := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, second); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	first := connected()
	defer unix.Close(first)
	const later = 1<<16 + 1000
	for range later {
		unix.Close(connected())
	}
	if peer, err := unix.Getpeername(first); err != nil || addressOf(peer) != addressOf(second) {
		t.Errorf("after %d other sockets the peer is %s, %v, want %s", later, addressOf(peer), err, addressOf(second))
	}
	if got := dump(t, p).Counters["origin_stored"]; got != later+1 {
		t.Errorf("%d origins stored, want one a socket, %d", got, later+1)
	}
}

// A socket that connects again sees the address that it asked for last.
func TestReconnectedSocketForgets(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	p.SetService(serviceOf("default/a:udp", UDP, "10.96.0.1:80", three[0]))
	flush(t, p)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	direct := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, 1}, Port: 8080}
	through := &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: 80}
	for i, to := range []*unix.SockaddrInet4{direct, through, direct, through} {
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
		if peer, err := unix.Getpeername(fd); err != nil || addressOf(peer) != addressOf(to) {
			t.Errorf("connect %d: peer is %s, %v, want %s", i, addressOf(peer), err, addressOf(to))
		}
	}
}

// Traffic policy Local: this node's backends or nobody.
func TestLocalPolicyAtSockets(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	for _, address := range three {
		serve(t, TCP, address)
	}
	service := serviceOf("default/web:http", TCP, "10.96.0.1:80", three...)
	service.Backends[0].Node, service.Backends[2].Node = "node2", "node2"
	service.Frontends[0].Local = true
	p.SetService(service)
	flush(t, p)
	for range 4 {
		if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[1] {
			t.Errorf("answered by %s, %v", from, err)
		}
	}
	service.Backends[1].State = Terminating // all that is left here
	p.SetService(service)
	flush(t, p)
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[1] {
		t.Errorf("only a terminating one here: answered by %s, %v", from, err)
	}
	service.Backends[1].Node = "node2"
	p.SetService(service)
	flush(t, p)
	if from, err := ask("tcp4", "10.96.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("none here: answered by %s, %v", from, err)
	}
	if n := dump(t, p).Counters["no_local_backend"]; n != 1 {
		t.Errorf("no_local_backend is %d, want 1", n)
	}
}

package hurts

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
	"github.com/skep-io/skep/test/hurts/lab"
)

// Connected sockets in pods stayed with backends that were deleted, those of pods that had run for long even after sockets of
// younger ones were closed. cilium 12859, 28820 (and 40336, 48096).
func TestSocketsPinnedToDeadBackends(t *testing.T) {
	pins := lab.Pins(t)
	p := lab.Open(t, pins)
	pod, elsewhere := lab.NewNamespace(t), lab.NewNamespace(t)
	cut := lab.Link(t, pod, netip.MustParseAddr("10.244.1.2"), elsewhere, netip.MustParseAddr("10.244.9.2"))
	elsewhere.Serve(t, service.TCP, "10.244.9.2:80")
	elsewhere.Serve(t, service.UDP, "10.244.9.2:7")
	web := lab.Service("default/web:http", service.TCP, webService, "10.244.9.2:80")
	dns := lab.Service("default/dns:udp", service.UDP, echoService, "10.244.9.2:7")
	set(t, p, web, dns)
	// Long before the agent that will have to close them.
	tcp, udp := pod.Dial(t, "tcp4", webService), pod.Dial(t, "udp4", echoService)
	if _, err := lab.ReadName(tcp); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, udp, "10.244.9.2:7")
	p.Close()

	p = lab.Open(t, pins)
	p.SetService(web)
	p.SetService(dns)
	p.Synced()
	lab.Flush(t, p)
	s := sweep(t, p, pod)
	cut()
	p.SetNodeDown("node1", true)
	s.NodeDown()
	for name, conn := range map[string]net.Conn{"TCP": tcp, "UDP": udp} {
		conn.SetDeadline(time.Now().Add(lab.Deadline))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: the client got %v, want ECONNABORTED", name, err)
		}
	}
}

// Closing by what was remembered of a socket closed sockets that had sent one datagram to the backend once, and were bound to
// ports of their own. cilium 48564.
func TestKillingTheWrongSockets(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host, pod := lab.Host(t), lab.NewNamespace(t)
	s := sweep(t, p, pod)
	echo := lab.Service("default/echo:udp", service.UDP, echoService, one)
	set(t, p, echo)
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(echoService))
	var innocent []*net.UDPConn
	for _, from := range []*lab.Namespace{host, pod} {
		from.Serve(t, service.UDP, one)
		from.Serve(t, service.UDP, two)
		conn := lab.Unconnected(t, from)
		if _, err := conn.WriteTo([]byte("?"), to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadFrom(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		innocent = append(innocent, conn)
	}
	direct := pod.Dial(t, "udp4", one)
	set(t, p, lab.Service(echo.Name, service.UDP, echoService, two))
	gone := netip.MustParseAddrPort(one)
	result, err := s.Sweep(t.Context(), []sockets.Target{{Addr: gone.Addr(), Port: gone.Port(), Protocol: service.UDP}})
	if err != nil || result != (sockets.Result{Direct: 1}) {
		t.Errorf("%+v, %v, want one direct socket left alone", result, err)
	}
	for _, conn := range innocent {
		port := conn.LocalAddr().String()
		if _, err := conn.WriteTo([]byte("?"), to); err != nil {
			t.Errorf("send after the backend left: %v", err)
		}
		answer := make([]byte, 64)
		n, from, err := conn.ReadFrom(answer)
		if err != nil || string(answer[:n]) != two || from.String() != echoService || conn.LocalAddr().String() != port {
			t.Errorf("answered by %q from %v, %v", answer[:n], from, err)
		}
	}
	wantAnswer(t, direct, one)
}

// With session affinity, clients were sent to a terminating backend for as long as they kept coming, so that it never drained.
// cilium 48715 (and 27096).
func TestAffinityLeavesTerminatingBackends(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host := lab.Host(t)
	host.Serve(t, service.TCP, one)
	host.Serve(t, service.TCP, two)
	s := lab.Service("default/web:http", service.TCP, webService, one, two)
	s.AffinityTimeout = 3 * time.Hour
	set(t, p, s)
	first, err := lab.Ask("tcp4", webService)
	if err != nil {
		t.Fatal(err)
	}
	old := host.Dial(t, "tcp4", webService)
	if name, err := lab.ReadName(old); err != nil || name != first {
		t.Fatalf("the client of %s was sent to %q, %v", first, name, err)
	}
	for i := range s.Backends {
		if netip.AddrPortFrom(s.Backends[i].Addr, s.Backends[i].Port).String() == first {
			s.Backends[i].State = service.Terminating
		}
	}
	set(t, p, s)
	second := ""
	for range 5 {
		if second, err = lab.Ask("tcp4", webService); err != nil || second == first {
			t.Errorf("a new connection went to %q, which is terminating: %v", second, err)
		}
	}
	wantAnswer(t, old, "?") // what it has it keeps
	for i := range s.Backends {
		s.Backends[i].State = service.Terminating
	}
	set(t, p, s)
	if name, err := lab.Ask("tcp4", webService); err != nil || name != second {
		t.Errorf("with all terminating: %q, %v, want %s, as before", name, err, second)
	}
}

// Programs that compare the peer with whom they asked for (Ceph's messenger) gave up when they got a pod's address.
// cilium 9974.
func TestGetpeername(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host := lab.Host(t)
	set(t, p,
		lab.Service("default/tcp:p", service.TCP, webService, one),
		lab.Service("default/udp:p", service.UDP, echoService, one),
		lab.Service("default/tcp6:p", service.TCP, "[fd00:96::1]:80", "[fd00::1]:8080"),
		lab.Service("default/udp6:p", service.UDP, "[fd00:96::1]:7", "[fd00::1]:8080"))
	for _, c := range []struct{ network, address, backend string }{
		{"tcp4", webService, one}, {"udp4", echoService, one},
		{"tcp6", "[fd00:96::1]:80", "[fd00::1]:8080"}, {"udp6", "[fd00:96::1]:7", "[fd00::1]:8080"},
	} {
		protocol := service.TCP
		if c.network[:3] == "udp" {
			protocol = service.UDP
		}
		host.Serve(t, protocol, c.backend)
		if got := host.Dial(t, c.network, c.address).RemoteAddr().String(); got != c.address {
			t.Errorf("%s: asked for %s, got %s", c.network, c.address, got)
		}
		if got := host.Dial(t, c.network, c.backend).RemoteAddr().String(); got != c.backend {
			t.Errorf("%s: asked for %s itself, got %s", c.network, c.backend, got)
		}
	}
}

// A backend that several addresses lead to answered under one of them only, and clients of the others dropped the answers.
// cilium 11810.
func TestOneBackendBehindSeveralAddresses(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host := lab.Host(t)
	host.Serve(t, service.UDP, one)
	host.Serve(t, service.TCP, one)
	addresses := []string{"10.96.0.1:53", "10.96.0.2:53", "10.96.0.2:5353", "192.0.2.1:53"}
	for _, protocol := range []service.Protocol{service.UDP, service.TCP} {
		a := lab.Service("default/a:"+protocol.String(), protocol, addresses[0], one)
		b := lab.Service("default/b:"+protocol.String(), protocol, addresses[1], one)
		for _, more := range addresses[2:] {
			b.Frontends = append(b.Frontends, lab.Frontend(more, protocol))
		}
		set(t, p, a, b)
	}
	var conns []net.Conn
	var asked []string
	for _, network := range []string{"udp4", "tcp4"} {
		for _, address := range addresses {
			conns, asked = append(conns, host.Dial(t, network, address)), append(asked, address)
		}
	}
	for i, conn := range conns { // all of them at once
		if got := conn.RemoteAddr().String(); got != asked[i] {
			t.Errorf("asked for %s, got %s", asked[i], got)
		}
	}
	// One of the services is deleted, and its clients do not see the other's address.
	p.DeleteService("default/a:TCP")
	lab.Flush(t, p)
	for i, conn := range conns {
		got, err := lab.PeerName(conn)
		if err != nil || got != asked[i] && (asked[i] != addresses[0] || got != one) {
			t.Errorf("after a service is gone: asked for %s, got %s, %v", asked[i], got, err)
		}
	}
	unconnected := lab.Unconnected(t, host)
	for _, address := range append(addresses, one) {
		if _, err := unconnected.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address))); err != nil {
			t.Fatal(err)
		}
		_, from, err := unconnected.ReadFrom(make([]byte, 64))
		if err != nil {
			t.Fatal(err)
		}
		// Two answers from the same backend cannot be distinguished: the address asked last is returned.
		if from.String() != address {
			t.Errorf("asked %s, answered from %s", address, from)
		}
	}
}

// A pod that asked its own service got no answer: packets came back to it with its own address. kubernetes 20475.
func TestSelfThroughService(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	pod, node := lab.NewNamespace(t), lab.NewNamespace(t)
	own := netip.MustParseAddr("10.244.1.2")
	lab.Link(t, pod, own, node, netip.MustParseAddr("10.244.1.1"))
	pod.Serve(t, service.TCP, "10.244.1.2:8080")
	pod.Serve(t, service.UDP, "10.244.1.2:8080")
	set(t, p,
		lab.Service("default/web:http", service.TCP, webService, "10.244.1.2:8080"),
		lab.Service("default/echo:udp", service.UDP, echoService, "10.244.1.2:8080"))
	if name, err := pod.Ask("tcp4", webService); err != nil || name != "10.244.1.2:8080" {
		t.Errorf("TCP: answered by %q, %v", name, err)
	}
	wantAnswer(t, pod.Dial(t, "udp4", echoService), "10.244.1.2:8080")
}

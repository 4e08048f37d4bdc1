package hurts

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// A sender that never receives anything, as for statsd, whose only backend ended, kept sending to its address for hours:
// conntrack's entry outlived the endpoint. kubernetes 139628, 125467.
func TestStaleUDPAfterBackendDeath(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host, pod := lab.Host(t), lab.NewNamespace(t)
	sweep(t, p, pod)
	host.Serve(t, service.UDP, two)
	s := lab.Service("default/statsd:udp", service.UDP, echoService, one)
	for name, from := range map[string]*lab.Namespace{"host": host, "pod": pod} {
		from.Sink(t, one) // an address without a host sends no errors either
		set(t, p, s)
		conn := from.Dial(t, "udp4", echoService)
		if _, err := conn.Write([]byte("1")); err != nil {
			t.Fatalf("%s: first datagram: %v", name, err)
		}
		p.SetService(lab.Service(s.Name, service.UDP, echoService))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: the client was told %v, want ECONNABORTED", name, err)
		}
		if _, err := conn.Write([]byte("2")); err == nil { // a sender that never reads gets an error, too
			t.Errorf("%s: a datagram was sent to nobody", name)
		}
	}
	lab.Flush(t, p)
	if _, err := net.Dial("udp4", echoService); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect without endpoints: %v, want ECONNREFUSED", err)
	}
	// A socket that never connects asks anew with every datagram, from the same port.
	unconnected := lab.Unconnected(t, host)
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(echoService))
	if _, err := unconnected.WriteTo([]byte("?"), to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("send without endpoints: %v, want ECONNREFUSED", err)
	}
	set(t, p, lab.Service(s.Name, service.UDP, echoService, two))
	if _, err := unconnected.WriteTo([]byte("?"), to); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	if n, from, err := unconnected.ReadFrom(answer); err != nil || string(answer[:n]) != two || from.String() != echoService {
		t.Errorf("answered by %q from %v, %v", answer[:n], from, err)
	}
}

// A restarted proxy cleared all conntrack entries of UDP services, and conversations went on with another endpoint. kubernetes
// 122740.
func TestUDPAcrossAProxyRestart(t *testing.T) {
	pins := lab.Pins(t)
	p := lab.Open(t, pins)
	host := lab.Host(t)
	backends := []string{one, two, three}
	for _, b := range backends {
		host.Serve(t, service.UDP, b)
	}
	s := lab.Service("default/quic:udp", service.UDP, echoService, backends...)
	affine := lab.Service("default/sip:udp", service.UDP, "10.96.0.2:7", backends...)
	affine.AffinityTimeout = 3 * 3600e9
	set(t, p, s, affine)
	sweeper := sweep(t, p)
	var conns []net.Conn
	var names []string
	for range 6 {
		conn := host.Dial(t, "udp4", echoService)
		name, err := lab.Exchange(conn)
		if err != nil {
			t.Fatal(err)
		}
		conns, names = append(conns, conn), append(names, name)
	}
	unconnected := lab.Unconnected(t, host)
	ask := func() string {
		t.Helper()
		if _, err := unconnected.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.2:7"))); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 64)
		n, _, err := unconnected.ReadFrom(answer)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer[:n])
	}
	chosen := ask()
	for range 3 {
		sweeper.stop()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		for i, conn := range conns { // no agent runs, and none is needed
			wantAnswer(t, conn, names[i])
		}
		p = lab.Open(t, pins)
		sweeper = sweep(t, p)
		p.SetService(s)
		p.SetService(affine)
		p.Synced()
		lab.Flush(t, p)
		for i, conn := range conns {
			wantAnswer(t, conn, names[i])
		}
		if again := ask(); again != chosen {
			t.Errorf("the client of %s was sent to %s", chosen, again)
		}
	}
}

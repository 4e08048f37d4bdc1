package service

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// A port at the host's loopback is the host's alone, and one at an address of the node answers at no other.
func TestPortAtOneAddress(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	serve(t, TCP, "127.0.1.1:8080")
	serve(t, TCP, "[fd00::1]:8080")
	loopback := serviceOf("host-port/default/a:127.0.0.1:30090/TCP", TCP, "127.0.0.1:30090", "127.0.1.1:8080", "[fd00::1]:8080")
	loopback.Frontends = append(loopback.Frontends, frontend("[::1]:30090", TCP))
	p.SetService(loopback)
	p.SetService(serviceOf("host-port/default/b:192.0.2.1:30091/TCP", TCP, "192.0.2.1:30091", "127.0.1.1:8080"))
	p.SetAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.3.1")})
	flush(t, p)
	for _, address := range []string{"127.0.0.1:30090", "[::1]:30090", "192.0.2.1:30091"} {
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
	before := dump(t, p).Counters["translated"]
	for _, address := range []string{"127.0.0.2:30090", "127.0.0.1:30091", "127.0.3.1:30091", "[::1]:30091"} {
		if conn, err := net.DialTimeout("tcp", address, deadline); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, %v", address, conn, err)
		}
	}
	// Pods are in this cgroup too, and have a loopback of their own.
	for _, address := range []string{"127.0.0.1:30090", "[::1]:30090"} {
		child := sandbox.AsChild(s.command(t), "ask", "SKEP_TEST_ASK="+address)
		out, err := child.Output()
		if err != nil || string(out) != "true\n" {
			t.Errorf("%s in another namespace: refused %q, %v", address, out, err)
		}
	}
	if after := dump(t, p).Counters["translated"]; after != before {
		t.Errorf("%d connections were translated that ask for nothing of ours", after-before)
	}
}

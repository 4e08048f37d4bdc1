package podpath_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

func TestForgedSourcesGoNowhere(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	liar, victim, target := h.NewPod("liar"), h.NewPod("victim"), h.NewPod("target")
	var received net.PacketConn
	target.Do(func() (err error) {
		received, err = net.ListenPacket("udp", ":9")
		return err
	})
	defer received.Close()
	forged := []string{victim.Addr4().String(), "10.244.1.200", "203.0.113.9", "192.0.2.11", victim.Addr6().String(), "2001:db8:9::9"}
	for _, source := range forged {
		before := counters(t, h)
		liar.Do(func() error { return sendFrom(source, target.Addrs) })
		wantMovedBeside(t, "from "+source, before, counters(t, h), neighbourTalk, "from_pod/forged")
	}
	// What the pod sends with its own address is the first to arrive.
	liar.Do(func() error { return sendFrom(liar.Addr4().String(), target.Addrs) })
	received.SetDeadline(time.Now().Add(fabrictest.Deadline))
	_, from, err := received.ReadFrom(make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	if got := netip.MustParseAddrPort(from.String()).Addr().Unmap(); got != liar.Addr4() {
		t.Errorf("the first datagram is from %s, want %s", got, liar.Addr4())
	}
}

// sendFrom sends one datagram to port 9 of the address of the same family, with a source that eth0 is given for it.
func sendFrom(source string, to []netip.Addr) error {
	from := netip.MustParseAddr(source)
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: from.AsSlice(), Mask: net.CIDRMask(from.BitLen(), from.BitLen())}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrReplace(eth, addr); err != nil {
		return err
	}
	for _, target := range to {
		if target.Is4() != from.Is4() {
			continue
		}
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(target, 9)))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
	}
	return nil
}

// kubernetes 48719: a client of a service without endpoints gets an error at once and does not wait.
func TestServiceWithoutBackendsEndsTheWait(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	client := h.NewPod("client")
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s, frontends := serviceFor("default/none:"+protocol.String(), protocol, 80, 8080)
		f.SetService(s)
		for _, frontend := range frontends {
			before := counters(t, h)
			if protocol == service.TCP {
				if _, err := tryDial(t, client.Namespace, "tcp", frontend); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("connect to %s: %v, want %v", frontend, err, unix.ECONNREFUSED)
				}
				wantMovedBeside(t, "connect to "+frontend.String(), before, counters(t, h), neighbourTalk, "from_pod/reset")
				continue
			}
			for _, size := range []int{1, 1400} {
				before := counters(t, h)
				wantRefused(t, client.Namespace, frontend, size)
				wantMovedBeside(t, "datagram to "+frontend.String(), before, counters(t, h), neighbourTalk, "from_pod/unreachable")
			}
		}
	}
}

// wantRefused sends a datagram and waits for the error that an ICMP "port unreachable" makes of the next read.
func wantRefused(t *testing.T, ns *fabrictest.Namespace, to netip.AddrPort, size int) {
	t.Helper()
	conn := dial(t, ns, "udp", to)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 64)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after a datagram of %d bytes to %s: %v, want %v", size, to, err, unix.ECONNREFUSED)
	}
}

// A backend's own "port unreachable" quotes translated packets; the client has to get those that it sent.
func TestErrorsOfBackendsReachTheClient(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client := f.Hosts[0].NewPod("client")
	for _, server := range []*fabrictest.Pod{f.Hosts[0].NewPod("here"), f.Hosts[1].NewPod("elsewhere")} {
		s, frontends := serviceFor("default/closed:dns", service.UDP, 53, 5353, server)
		f.SetService(s)
		for _, frontend := range frontends {
			before := counters(t, f.Hosts[0])
			wantRefused(t, client.Namespace, frontend, 100)
			changed := moved(before, counters(t, f.Hosts[0]))
			if changed["from_pod/event_error"]+changed["from_uplink/event_error"] != 1 {
				t.Errorf("%s on %s: %v, want one translated error", frontend, server.ID, changed)
			}
		}
	}
}

// kubernetes 139628: datagrams of one client port no longer go to a removed backend.
func TestDatagramsLeaveAGoneBackend(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	client, first, second := h.NewPod("client"), h.NewPod("first"), h.NewPod("second")
	s, frontends := serviceFor("default/dns:dns", service.UDP, 53, 5353, first)
	f.SetService(s)
	conn := dial(t, client.Namespace, "udp", frontends[0])
	serveUDP(t, first.Namespace, netip.AddrPortFrom(first.Addr4(), 5353))
	serveUDP(t, second.Namespace, netip.AddrPortFrom(second.Addr4(), 5353))
	echoUDP(t, conn, 10)
	s, _ = serviceFor("default/dns:dns", service.UDP, 53, 5353, second)
	f.SetService(s)
	before := traffic(t, h)
	echoUDP(t, conn, 10)
	after := traffic(t, h)
	backend := netip.AddrPortFrom(second.Addr4(), 5353)
	if got := after[backend].ToPackets - before[backend].ToPackets; got != 1 {
		t.Errorf("the new backend got %d packets, want 1: %v -> %v", got, before, after)
	}
}

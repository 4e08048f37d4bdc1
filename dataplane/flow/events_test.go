package flow

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// An event about a refused client outside has its address, and a backend's refusals are counted.
func TestTellsWhoWasRefused(t *testing.T) {
	w := newWorld(t, 1)
	l, err := events.Open(w.Hosts[0].Plane, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	pod := w.Hosts[0].NewPod("closed") // nobody listens
	w.SetService(nodePort("t/closed:tcp", service.TCP, 30080, pod))
	w.SetService(nodePort("t/none:tcp", service.TCP, 30081))
	private := nodePort("t/private:udp", service.UDP, 30082, pod)
	for i := range private.Frontends {
		private.Frontends[i].Restricted = true
	}
	private.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.SetService(private)
	var want []events.Event
	for i, asked := range fabrictest.NodeIPs(0) {
		client := netip.MustParseAddr([]string{"203.0.113.9", "2001:db8:9::9"}[i])
		backend := netip.AddrPortFrom(pod.Addrs[i], 8080)
		for port, e := range []events.Event{
			{Kind: "backend_failed", Service: "t/closed:tcp", Protocol: "TCP", Backend: backend},
			{Kind: "no_backend", Service: "t/none:tcp", Protocol: "TCP"},
			{Kind: "source_refused", Service: "t/private:udp", Protocol: "UDP"},
		} {
			e.Asked = netip.AddrPortFrom(asked, uint16(30080+port))
			from := netip.AddrPortFrom(client, uint16(40000+port))
			e.Client = from
			w.Outside.Do(func() error {
				if e.Protocol == "UDP" {
					conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(e.Asked))
					if err != nil {
						return err
					}
					defer conn.Close()
					_, err = conn.Write([]byte("x"))
					return err
				}
				dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: deadline}
				if _, err := dialer.Dial("tcp", e.Asked.String()); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("connect to %s: %v, want it refused", e.Asked, err)
				}
				return nil
			})
			want = append(want, e)
		}
	}
	var got []events.Event
	enough := errors.New("enough")
	if err := l.Follow(ctx, func(e events.Event) error {
		e.Time = time.Time{}
		if got = append(got, e); len(got) == len(want) {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	dump, err := w.Hosts[0].Plane.Dump()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range dump.Services {
		if failed, refused := map[string]uint64{"t/closed:tcp": 1}[s.Name], map[string]uint64{"t/none:tcp": 1, "t/private:udp": 1}[s.Name]; s.Failed != failed || s.Refused != refused {
			t.Errorf("%s %s: %d failed and %d refused, want %d and %d", s.Name, s.Frontends[0].Address, s.Failed, s.Refused, failed, refused)
		}
	}
	for _, b := range dump.Backends {
		if failed := map[string]uint64{"t/closed:tcp": 1}[b.Service]; b.Failed != failed {
			t.Errorf("%s of %s counts %d failures, want %d", b.Address, b.Service, b.Failed, failed)
		}
	}
}

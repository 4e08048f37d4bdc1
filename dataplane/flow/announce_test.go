package flow

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
)

// Addresses on the nodes' link that no interface has.
var link4, link6 = netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8:2::200")

// The address passes from one node to the other: neighbours learn it without asking, and connections go there.
func TestTakeover(t *testing.T) {
	w := newWorld(t, 2)
	for i, h := range w.Hosts {
		pod := h.NewPod(h.Name + "-pod")
		serve(t, pod)
		s := service.Service{Name: "t/vip", Backends: []service.Backend{pod.Backend(pod.Addrs[0], 8080), pod.Backend(pod.Addrs[1], 8080)}}
		for _, addr := range []netip.Addr{link4, link6} {
			s.Frontends = append(s.Frontends, service.Frontend{Addr: addr, Port: 80, Protocol: service.TCP, Scope: service.ScopeExternal, Local: true})
		}
		h.Plane.SetService(s) // only the node's own pod: the answer shows where the packet went
		w.flush(i)
	}
	until := map[netip.Addr]time.Time{link4: time.Now().Add(time.Hour), link6: time.Now().Add(time.Hour)}
	for round, owner := range []int{0, 1, 0} {
		other := 1 - owner
		if err := w.flows[other].Announce(nil); err != nil {
			t.Fatal(err)
		}
		if err := w.flows[owner].Announce(until); err != nil {
			t.Fatal(err)
		}
		if round > 0 { // before, the router had no entry
			w.awaitNeighbours(w.flows[owner].uplinks[0].mac)
		}
		for _, addr := range []netip.Addr{link4, link6} {
			changed := w.moved(owner, func() { pump(t, dial(t, w.Outside, "tcp", netip.AddrPortFrom(addr, 80)), 1<<16) })
			if changed["delivered"] == 0 {
				t.Errorf("%s is announced by node %d, whose counters are %v", addr, owner+1, changed)
			}
		}
	}
}

// awaitNeighbours waits until the router has both addresses at the given link address. It does not ask for them meanwhile: they
// have to be announced.
func (w *world) awaitNeighbours(mac [6]byte) {
	w.t.Helper()
	tick, late := time.NewTicker(10*time.Millisecond), time.After(deadline)
	defer tick.Stop()
	for found := 0; found < 2; {
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("the router got no announcement of the addresses at %x", mac)
		}
		found = 0
		w.Router.Do(func() error {
			neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
			for _, n := range neighbours {
				if (n.IP.Equal(link4.AsSlice()) || n.IP.Equal(link6.AsSlice())) && bytes.Equal(n.HardwareAddr, mac[:]) {
					found++
				}
			}
			return err
		})
	}
}

func (w *world) flush(host int) {
	w.t.Helper()
	if err := w.Hosts[host].Plane.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// All hosts on the link get the announcement: frames as in RFC 5227 and RFC 4861, and again a second later.
func TestAddressesAreAnnouncedToNeighbours(t *testing.T) {
	s := newStage(t)
	frames := s.framesAt(t, "far")
	if err := s.flows.Announce(map[netip.Addr]time.Time{vip4.Addr(): time.Now().Add(time.Hour), vip6.Addr(): time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	announced := packet{from: netip.AddrPortFrom(vip6.Addr(), 0), to: netip.AddrPortFrom(allNodes, 0), protocol: unix.IPPROTO_ICMPV6,
		hops: 255, raw: advertised(allNodes, vip6.Addr(), 0x20000000).raw}
	want := map[string]int{
		string(announced.frame(allNodesMAC, nodeMAC)):       2,
		string(gratuitousARP(nodeMAC, vip4.Addr(), 1)):      2,
		string(gratuitousARP(nodeMAC, vip4.Addr(), 2)[:42]): 2,
	}
	for len(want) > 0 {
		frame, err := frames()
		if err != nil {
			t.Fatalf("%d kinds of frames did not come twice: %v", len(want), err)
		}
		if want[frame]--; want[frame] <= 0 {
			delete(want, frame)
		}
	}
}

// framesAt returns the next frame at an interface each time.
func (s *stage) framesAt(t *testing.T, name string) func() (string, error) {
	t.Helper()
	const everyProtocol = 0x0300 // ETH_P_ALL in network order
	var socket int
	s.Do(func() (err error) {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, everyProtocol)
		if err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: everyProtocol, Ifindex: device.Index})
	})
	t.Cleanup(func() { unix.Close(socket) })
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(deadline / time.Second)}); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2000)
	return func() (string, error) {
		for {
			n, _, err := unix.Recvfrom(socket, buffer, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return string(buffer[:max(n, 0)]), err
		}
	}
}

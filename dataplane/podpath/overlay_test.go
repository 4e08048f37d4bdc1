package podpath_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// outerFrames are those of the overlay, at the uplink that carries it.
const outerFrames = neighbourTalk + " to_uplink/not_ip"

func TestPodsOfHostsThatShareNoLink(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.NewRouted(t, 2)
		for _, h := range f.Hosts {
			h.OpenPath(change)
		}
		a, b := f.Hosts[0].NewPod("a"), f.Hosts[1].NewPod("b")
		for i, addr := range b.Addrs {
			target := netip.AddrPortFrom(addr, 8080)
			serve(t, b.Namespace, target)
			serveUDP(t, b.Namespace, target)
			for _, network := range []string{"tcp", "udp"} {
				before := []map[string]uint64{counters(t, f.Hosts[0]), counters(t, f.Hosts[1])}
				if got := ask(t, a.Namespace, network, target); got.Addr() != a.Addrs[i] {
					t.Errorf("%s %s saw %s, want %s", network, target, got, a.Addrs[i])
				}
				for k, h := range f.Hosts {
					wantMovedBeside(t, h.Name+": "+network+" to "+target.String(), before[k], counters(t, h),
						outerFrames, "from_pod/neighbour_node", "from_uplink/peer", "from_uplink/stack")
				}
			}
			pump(t, a.Namespace, target, 16<<20)
		}
	})
}

func TestServiceByThePacketThroughTheOverlay(t *testing.T) {
	f := fabrictest.NewRouted(t, 2)
	f.OpenPaths()
	client, server := f.Hosts[0].NewPod("client"), f.Hosts[1].NewPod("server")
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s, frontends := serviceFor("default/far:"+protocol.String(), protocol, 80, 8080, server)
		f.SetService(s)
		for i, frontend := range frontends {
			backend := netip.AddrPortFrom(server.Addrs[i], 8080)
			before := counters(t, f.Hosts[0])
			if protocol == service.TCP {
				serve(t, server.Namespace, backend)
				pump(t, client.Namespace, frontend, 16<<20)
			} else {
				serveUDP(t, server.Namespace, backend)
				conn := dial(t, client.Namespace, "udp", frontend)
				for _, size := range []int{1, 1400, 9000, 60000} { // the last three in fragments
					echoUDP(t, conn, size)
				}
			}
			changed := moved(before, counters(t, f.Hosts[0]))
			if changed["from_pod/event_new_flow"] != 1 || changed["from_uplink/event_reversed"] == 0 {
				t.Errorf("%s %s: %v, want one new flow, and its answers translated when they come from the overlay", protocol, frontend, changed)
			}
		}
	}
}

// Packets that XDP hands over reach their destination, also if they are too long for the overlay: they are fragmented.
func TestHandedOverPacketsGoThroughTheOverlay(t *testing.T) {
	f := fabrictest.NewRouted(t, 2)
	f.OpenPaths()
	pod := f.Hosts[1].NewPod("far")
	var uplink net.HardwareAddr
	f.Hosts[0].Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err == nil {
			uplink = device.HardwareAddr
		}
		return err
	})
	for i, from := range fabrictest.NodeIPs(0) {
		to, source := netip.AddrPortFrom(pod.Addrs[i], 8080), netip.AddrPortFrom(from, 61000)
		var socket net.PacketConn
		pod.Do(func() (err error) {
			socket, err = net.ListenPacket("udp", to.String())
			return err
		})
		defer socket.Close()
		const size = 1430 // in a packet of less than the uplink's MTU, more than the overlay's
		frame := packet{from: source.String(), to: to.String(), protocol: protocolUDP, payload: size}.frame()
		copy(frame, uplink)
		copy(frame[6:], []byte{0x02, 's', 'k', 'e', 'p', 0x01})
		f.Router.Do(func() error { return sendFrame(f.Hosts[0].Name, frame) })
		socket.SetReadDeadline(time.Now().Add(fabrictest.Deadline))
		n, seen, err := socket.ReadFrom(make([]byte, f.MTU))
		if err != nil || n != size || seen.String() != source.String() {
			t.Errorf("%d bytes from %v came to %s, %v, want %d from %s", n, seen, to, err, size, source)
		}
	}
}

func sendFrame(link string, frame []byte) error {
	device, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: device.Index, Halen: 6})
}

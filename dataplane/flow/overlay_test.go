package flow

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// The hosts share no link: pods of others are behind VXLAN, and the backend's node behind a router.
func TestFromOutsideToHostsThatShareNoLink(t *testing.T) {
	w := openWorld(t, fabrictest.NewRouted(t, 2))
	pod := w.Hosts[1].NewPod("elsewhere")
	serve(t, pod)
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		w.SetService(nodePort("t/direct:"+protocol.String(), protocol, 30080, pod))
		s := nodePort("t/snat:"+protocol.String(), protocol, 30081, pod)
		s.SNAT = true
		w.SetService(s)
	}
	overlay := []netip.Addr{netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:10:244:1::")}
	for i, asked := range fabrictest.NodeIPs(0) {
		to := netip.AddrPortFrom(asked, 30080)
		tcp, udp := dial(t, w.Outside, "tcp", to), dial(t, w.Outside, "udp", to)
		if seen := pump(t, tcp, 4<<20); seen.String() != tcp.LocalAddr().String() {
			t.Errorf("TCP: the backend saw %s, the client is %s", seen, tcp.LocalAddr())
		}
		for _, size := range []int{1, 1200, 4000} {
			if seen := echo(t, udp, size, 10); seen.String() != udp.LocalAddr().String() {
				t.Errorf("UDP: the backend saw %s, the client is %s", seen, udp.LocalAddr())
			}
		}
		to = netip.AddrPortFrom(asked, 30081)
		tcp, udp = dial(t, w.Outside, "tcp", to), dial(t, w.Outside, "udp", to)
		moved := w.moved(0, func() {
			for _, size := range []int{1, 1200, 4000} {
				if seen := echo(t, udp, size, 10); seen.Addr() != overlay[i] {
					t.Errorf("UDP by SNAT: the backend saw %s, want this node's address on the overlay, %s", seen, overlay[i])
				}
			}
			if seen := pump(t, tcp, 4<<20); seen.Addr() != overlay[i] {
				t.Errorf("TCP by SNAT: the backend saw %s, want this node's address on the overlay, %s", seen, overlay[i])
			}
		})
		if moved["too_big"] == 0 || moved["translated_back"] != 0 {
			t.Errorf("by SNAT: %v, want datagrams that were too big, and all answers through the overlay", moved)
		}
		if fits := pathMTU(t, tcp); fits != w.MTU-50 {
			t.Errorf("the client at %s sends packets of %d bytes, want what fits the overlay, %d", to, fits, w.MTU-50)
		}
	}
}

// pathMTU is the kernel's path MTU for a connected socket.
func pathMTU(t *testing.T, conn net.Conn) (mtu int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { mtu, failed = unix.GetsockoptInt(int(fd), level, option) }); err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		t.Fatal(failed)
	}
	return mtu
}

package flow

import (
	"net/netip"
	"testing"

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
	}
	for _, asked := range fabrictest.NodeIPs(0) {
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
	}
}

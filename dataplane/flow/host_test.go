package flow

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// A node's own process connects to an external address that the router routes back to this node: the packets arrive at the
// uplink from an address of its own, and the pod's answers go to the node itself.
func TestNodeAsksItsOwnFrontendByTheRouter(t *testing.T) {
	w := newWorld(t, 1)
	h := w.Hosts[0]
	pod := h.NewPod("server")
	serve(t, pod)
	external := []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")}
	var frontends []service.Frontend
	for i, addr := range external {
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			frontends = append(frontends, service.Frontend{Addr: addr, Port: 80, Protocol: protocol, Scope: service.ScopeExternal})
		}
		w.Router.Do(func() error {
			to := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
			return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: fabrictest.NodeIPs(0)[i].AsSlice()})
		})
	}
	s := service.Service{Name: "t/external", Frontends: frontends}
	for _, addr := range pod.Addrs {
		s.Backends = append(s.Backends, pod.Backend(addr, 8080))
	}
	w.SetService(s)
	for i, addr := range external {
		before := seen(t, h, "from_pod/host")
		to := netip.AddrPortFrom(addr, 80)
		tcp := dial(t, h.Namespace, "tcp", to)
		if client := pump(t, tcp, 4<<20); client.Addr() != fabrictest.NodeIPs(0)[i] {
			t.Errorf("TCP: the backend saw %s, want the node", client)
		}
		udp := dial(t, h.Namespace, "udp", to)
		if client := echo(t, udp, 1000, 3); client.Addr() != fabrictest.NodeIPs(0)[i] {
			t.Errorf("UDP: the backend saw %s, want the node", client)
		}
		if seen(t, h, "from_pod/host") == before {
			t.Errorf("%s: no answer was handed to the host", to)
		}
	}
}

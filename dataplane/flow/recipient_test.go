package flow

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// Only frames for the uplink's own link address are served, and of those for groups what asks about an announced address.
func TestFramesForOthers(t *testing.T) {
	both(t, func(t *testing.T, s *stage, f addresses) {
		s.set(external("t/tcp", service.TCP, f.vip, backend(f.pod, "node1")), external("t/udp", service.UDP, f.vip, backend(f.pod, "node1")))
		syn, delivered := tcp(f.client, f.vip, tcpSYN), tcp(f.client, f.pod, tcpSYN).arriving()
		datagram := udp(f.client, f.vip, "x")
		s.check(t,
			step{"SYN for another host", syn.frame(peerMAC, routerMAC), xdpPass, nil, []string{"other_host"}},
			step{"datagram for another host", datagram.frame(peerMAC, routerMAC), xdpPass, nil, []string{"other_host"}},
			step{"broadcast", datagram.frame(broadcastMAC, routerMAC), xdpPass, nil, []string{"group"}},
			step{"multicast", datagram.frame(allNodesMAC, routerMAC), xdpPass, nil, []string{"group"}},
			step{"for this host", syn.arriving(), xdpPass, delivered, []string{"delivered", "event_flow_made"}},
			step{"of a flow, for another host", tcp(f.client, f.vip, tcpACK).frame(peerMAC, routerMAC), xdpPass, nil, []string{"other_host"}},
		)
	})
}

// The link address that counts is the one that the interface has now.
func TestLinkAddressChanges(t *testing.T) {
	s := newStage(t)
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	syn, delivered := tcp(client4, vip4, tcpSYN), tcp(client4, pod4, tcpSYN)
	s.check(t, step{"before", syn.arriving(), xdpPass, delivered.arriving(), []string{"delivered", "event_flow_made"}})
	changed := [6]byte{0x02, 0, 0, 0, 0, 0x77}
	s.change(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, changed[:]) }, "eth0")
	s.uplinksNow("eth0")
	s.check(t,
		step{"its earlier address", syn.arriving(), xdpPass, nil, []string{"other_host"}},
		step{"its new address", syn.frame(changed, routerMAC), xdpPass, delivered.frame(changed, routerMAC), []string{"delivered"}},
	)
	s.uplinksNow()
	s.uplinksNow("eth0")
	if present, err := s.flows.maps.macs.All(); err != nil || len(present) != 1 {
		t.Errorf("link addresses %v, %v, want one", slices.Collect(maps.Keys(present)), err)
	}
}

// Members of a bond and ports of a bridge; and an index whose place in skep_first_macs another has, which is found by a lookup.
func TestLinkAddressesOfMembers(t *testing.T) {
	u := uplink{index: 3, mac: nodeMAC}
	member := func(index int, mac [6]byte) netlink.Link {
		attrs := netlink.LinkAttrs{Index: index, MasterIndex: 3, HardwareAddr: net.HardwareAddr(nodeMAC[:]), PermHWAddr: net.HardwareAddr(mac[:])}
		return &netlink.Device{LinkAttrs: attrs}
	}
	members := []netlink.Link{member(4, nodeMAC), member(3+firstMACs, peerMAC)}
	has := func(macs []bpf.UplinkMac, index int, octets [6]byte) bool {
		return slices.Contains(macs, bpf.UplinkMac{Ifindex: uint32(index), Octets: octets})
	}
	bond := macsWith(u, &netlink.Bond{}, members)
	for _, index := range []int{3, 4, 3 + firstMACs} {
		if !has(bond, index, nodeMAC) || !has(bond, index, peerMAC) {
			t.Errorf("a bond's frames for either member's address are not served where they come from interface %d: %v", index, bond)
		}
	}
	bridge := macsWith(u, &netlink.Bridge{}, members)
	if !has(bridge, 3, nodeMAC) || !has(bridge, 3, peerMAC) || has(bridge, 4, nodeMAC) {
		t.Errorf("a bridge is sent frames by its own address and its ports': %v", bridge)
	}

	s := newStage(t)
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	s.Do(func() error {
		return s.flows.addMACs([]bpf.UplinkMac{{Ifindex: uint32(s.index + firstMACs), Octets: nodeMAC}, {Ifindex: uint32(s.index), Octets: nodeMAC}})
	})
	s.check(t, step{"second of its place", tcp(client4, vip4, tcpSYN).arriving(), xdpPass, tcp(client4, pod4, tcpSYN).arriving(),
		[]string{"delivered", "event_flow_made"}})
}

// A switch that has not learnt where a host is sends its frames to every host: only that one serves them.
func TestFloodingSwitch(t *testing.T) {
	w := newWorld(t, 2)
	pod := w.Hosts[0].NewPod("pod")
	serve(t, pod)
	var vips []netip.AddrPort
	for i, vip := range []netip.AddrPort{vip4, vip6} {
		vips = append(vips, vip)
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			w.SetService(external("t/"+protocol.String()+vip.String(), protocol, vip, pod.Backend(pod.Addrs[i], 8080)))
		}
		w.Router.Do(func() error {
			bits := vip.Addr().BitLen()
			return netlink.RouteAdd(&netlink.Route{Gw: fabrictest.NodeIPs(0)[i].AsSlice(), Dst: &net.IPNet{IP: vip.Addr().AsSlice(), Mask: net.CIDRMask(bits, bits)}})
		})
	}
	w.Router.Do(func() error { return errors.Join(forgetHosts(w.Hosts[0].Name), forgetHosts(w.Hosts[1].Name)) })
	moved := w.moved(1, func() {
		for _, vip := range vips {
			pump(t, dial(t, w.Outside, "tcp", vip), 1<<16)
			echo(t, dial(t, w.Outside, "udp", vip), 100, 10)
		}
	})
	if moved["other_host"] < 100 {
		t.Errorf("the other host's counters %v: the switch did not flood", moved)
	}
	for _, quiet := range []string{"other_host", "group", "not_ip", "other_protocol"} {
		delete(moved, quiet)
	}
	if len(moved) > 0 {
		t.Errorf("a host served frames for another: counters %v", moved)
	}
}

// forgetHosts makes a port of the bridge learn no more addresses, and forget those that it has.
func forgetHosts(name string) error {
	port, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetLearning(port, false); err != nil {
		return err
	}
	known, err := netlink.NeighList(port.Attrs().Index, unix.AF_BRIDGE)
	failed := []error{err}
	for _, n := range known {
		if n.State&netlink.NUD_PERMANENT == 0 {
			n.Flags = netlink.NTF_MASTER
			failed = append(failed, netlink.NeighDel(&n))
		}
	}
	return errors.Join(failed...)
}

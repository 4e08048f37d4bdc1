package flow

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

// uplinksNow has the flows check the interfaces again.
func (s *stage) uplinksNow(names ...string) (states map[string]Uplink) {
	s.tb.Helper()
	s.Do(func() error { return s.flows.SetUplinks(names) })
	states = map[string]Uplink{}
	for _, u := range s.flows.Uplinks() {
		states[u.Name] = u
	}
	return states
}

func (s *stage) change(change func(netlink.Link) error, name string) {
	s.tb.Helper()
	s.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return change(l)
	})
}

func (s *stage) add(l netlink.Link) {
	s.tb.Helper()
	s.Do(func() error { return netlink.LinkAdd(l) })
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func (s *stage) wantUplink(t *testing.T, states map[string]Uplink, name, xdp, problem string) {
	t.Helper()
	u := states[name]
	if u.XDP != xdp || (u.Err == nil) != (problem == "") || u.Err != nil && !strings.Contains(u.Err.Error(), problem) {
		t.Errorf("uplink %s: %+v, want XDP %s and a problem like %q", name, u, xdp, problem)
	}
	if u.Err != nil {
		return
	}
	if mode := s.mode(t, name); mode != xdp {
		t.Errorf("the kernel has XDP %s at %s, want %s", mode, name, xdp)
	}
}

// If the driver refuses the program, the kernel's generic XDP runs it, and the driver is tried again at another MTU.
func TestDriverRefuses(t *testing.T) {
	s := newStage(t)
	s.set(external("t/tcp", service.TCP, vip4, backend(pod4, "node1")))
	s.add(&netlink.Bridge{LinkAttrs: named("bridge")}) // its driver knows no XDP
	states := s.uplinksNow("eth0", "bridge")
	s.wantUplink(t, states, "eth0", "native", "")
	s.wantUplink(t, states, "bridge", "generic", "")

	// A veth refuses while its other end has more transmit queues than it has receive queues.
	setQueues := func(n uint32) {
		s.Do(func() error {
			return sandbox.Ethtool("far", unsafe.Pointer(&struct{ command, _, _, _, _, receive, send, _, _ uint32 }{
				command: unix.ETHTOOL_SCHANNELS, receive: 1, send: n}))
		})
	}
	s.uplinksNow()
	setQueues(2)
	s.wantUplink(t, s.uplinksNow("eth0"), "eth0", "generic", "")
	s.run(tcp(client4, vip4, tcpSYN).arriving())
	s.again(t, nil)
	s.wantUplink(t, s.uplinksNow("eth0"), "eth0", "generic", "")
	s.check(t, step{"generic XDP", tcp(client4, vip4, tcpACK).arriving(), xdpPass, tcp(client4, pod4, tcpACK).arriving(), []string{"delivered"}})

	setQueues(1)
	s.change(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }, "eth0")
	s.wantUplink(t, s.uplinksNow("eth0"), "eth0", "native", "")
	s.check(t, step{"native again", tcp(client4, vip4, tcpACK).arriving(), xdpPass, tcp(client4, pod4, tcpACK).arriving(), []string{"delivered"}})
}

// An uplink that can have no program at all does not affect others, says why, and gets it when it can.
func TestUplinkWithoutXDP(t *testing.T) {
	s := newStage(t)
	s.add(&netlink.Tuntap{LinkAttrs: named("tun"), Mode: netlink.TUNTAP_MODE_TUN})
	s.add(&netlink.Bridge{LinkAttrs: named("taken")})
	tool := s.attachTool(t, "taken")
	states := s.uplinksNow("tun", "taken", "later", "eth0")
	s.wantUplink(t, states, "tun", "none", "no Ethernet address")
	s.wantUplink(t, states, "taken", "none", "another tool's XDP program")
	s.wantUplink(t, states, "later", "none", "no interface of that name")
	s.wantUplink(t, states, "eth0", "native", "")
	if described, err := s.flows.maps.uplinks.All(); err != nil || described[uint32(s.index)].Mac != nodeMAC {
		t.Errorf("uplinks %v, %v, want eth0 as it is", described, err)
	}
	if err := tool.Close(); err != nil {
		t.Fatal(err)
	}
	s.add(&netlink.Bridge{LinkAttrs: named("later")})
	states = s.uplinksNow("taken", "later", "eth0")
	for _, name := range []string{"taken", "later"} {
		s.wantUplink(t, states, name, "generic", "")
	}
	s.change(netlink.LinkDel, "later")
	s.add(&netlink.Bridge{LinkAttrs: named("later")})
	s.wantUplink(t, s.uplinksNow("later", "eth0"), "later", "generic", "")
	if pins, err := pinned.LinksByInterface(s.options.PinDir); err != nil || len(pins) != 2 {
		t.Errorf("pinned links %v, %v, want those of two uplinks", pins, err)
	}
	if described, err := s.flows.maps.uplinks.All(); err != nil || len(described) != 2 {
		t.Errorf("described uplinks %v, %v, want two", described, err)
	}
}

// Overlays are recorded with this node's addresses on them, across uplinks that change, until they are not named any more.
func TestOverlaysAreRecorded(t *testing.T) {
	s := newStage(t)
	s.add(&netlink.Bridge{LinkAttrs: named("overlay")})
	s.change(func(l netlink.Link) error {
		for _, cidr := range []string{"10.244.9.0/32", "fd00:10:244:9::/128"} {
			addr, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return nil
	}, "overlay")
	set := func(names ...string) map[uint32]bpf.UplinkUplink {
		t.Helper()
		s.Do(func() error { return s.flows.SetOverlays(names) })
		s.uplinksNow("eth0")
		described, err := s.flows.maps.uplinks.All()
		if err != nil {
			t.Fatal(err)
		}
		return described
	}
	described := set("overlay", "nowhere")
	delete(described, uint32(s.index))
	want := bpf.UplinkUplink{Overlay: 1}
	want.Ip4.Word = bpf.ToNetwork(netip.MustParseAddr("10.244.9.0"))
	want.Ip6.Word = bpf.ToNetwork(netip.MustParseAddr("fd00:10:244:9::"))
	if got := slices.Collect(maps.Values(described)); len(got) != 1 || got[0] != want {
		t.Errorf("overlays %v, want %v", got, want)
	}
	if described := set(); len(described) != 1 || described[uint32(s.index)].Mac != nodeMAC {
		t.Errorf("described %v, want the uplink alone", described)
	}
}

// attachTool attaches another tool's program to the interface.
func (s *stage) attachTool(t *testing.T, name string) (attached link.Link) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	s.change(func(l netlink.Link) (err error) {
		attached, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: l.Attrs().Index})
		return err
	}, name)
	return attached
}

// An uplink with a changed link address answers with the new one, and announces it to neighbours.
func TestUplinkChangesItsAddress(t *testing.T) {
	s := newStage(t)
	frames := s.framesAt(t, "far")
	announced := func(want []byte) {
		t.Helper()
		for frame := ""; frame != string(want); {
			var err error
			if frame, err = frames(); err != nil {
				t.Fatalf("%x was not announced to neighbours: %v", want, err)
			}
		}
	}
	s.Do(func() error {
		return s.flows.Announce(map[netip.Addr]time.Time{vip4.Addr(): time.Now().Add(time.Hour)})
	})
	announced(gratuitousARP(nodeMAC, vip4.Addr(), 1))
	mac := [6]byte{2, 0, 0, 0, 0, 0x77}
	s.change(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, net.HardwareAddr(mac[:])) }, "eth0")
	s.uplinksNow("eth0")
	announced(gratuitousARP(mac, vip4.Addr(), 1))
	described, err := s.flows.maps.uplinks.All()
	if err != nil || described[uint32(s.index)].Mac != mac {
		t.Errorf("the program goes by %v, %v, want the link address %x", described, err, mac)
	}
	s.change(netlink.LinkSetDown, "eth0")
	s.uplinksNow("eth0")
	s.change(netlink.LinkSetUp, "eth0")
	s.uplinksNow("eth0")
	announced(gratuitousARP(mac, vip4.Addr(), 1))
}

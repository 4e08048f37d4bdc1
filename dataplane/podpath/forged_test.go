package podpath_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
)

// overlayID is the VXLAN network of the nodes' overlays.
const overlayID = 83

// wrapped is a packet in VXLAN as a node sends it, but from any sender.
func wrapped(from, to netip.Addr, id byte, inner []byte) packet {
	udp := slices.Concat([]byte{0xc0, 0, podnet.VXLANPort >> 8, podnet.VXLANPort & 0xff, 0, 0, 0, 0}, []byte{8, 0, 0, 0, 0, 0, id, 0}, inner)
	udp[4], udp[5] = byte(len(udp)>>8), byte(len(udp))
	return packet{from: netip.AddrPortFrom(from, 0).String(), to: netip.AddrPortFrom(to, 0).String(), protocol: protocolUDP, raw: udp}
}

func inIP(from, to netip.Addr, inner packet) packet {
	protocol := byte(unix.IPPROTO_IPV6)
	if source, _ := inner.ends(); source.Addr().Is4() {
		protocol = unix.IPPROTO_IPIP
	}
	return packet{from: netip.AddrPortFrom(from, 0).String(), to: netip.AddrPortFrom(to, 0).String(), protocol: protocol, raw: inner.ip()}
}

func datagram(from, to netip.Addr, port uint16) packet {
	return packet{from: netip.AddrPortFrom(from, 4000).String(), to: netip.AddrPortFrom(to, port).String(), protocol: protocolUDP, payload: 10}
}

// forgedFrames are those that no node of the scene has sent, and some that one may have.
func (s *scene) forgedFrames() (frames [][]byte) {
	for i, victim := range s.client.Addrs {
		inner := datagram(s.server.Addrs[i], victim, 9)
		for _, from := range []netip.Addr{victim, fabrictest.NodeIPs(1)[i], fabrictest.RouterIPs()[i]} {
			to := fabrictest.NodeIPs(0)[i]
			vxlan := wrapped(from, to, overlayID, inner.frame())
			options, first := vxlan, vxlan
			options.options, first.fragment = 2, 1
			frames = append(frames, vxlan.frame(), options.frame(), first.frame(), inIP(from, to, inner).frame(),
				wrapped(from, to, overlayID, nil).frame(), datagram(s.server.Addrs[i], victim, 9).frame())
		}
	}
	arp := slices.Concat(macB, macA, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, s.client.PodMAC, s.client.Addrs[0].AsSlice(), make([]byte, 6), []byte{192, 0, 2, 11}, make([]byte, 18))
	advertisement := packet{from: "[fe80::2]:0", to: "[ff02::1]:0", protocol: protocolICMPv6, hops: 255, raw: append([]byte{134}, make([]byte, 15)...)}
	return append(frames, arp, advertisement.frame(), packet{from: "[fe80::2]:0", to: "[ff02::1:ff00:1]:0", protocol: protocolICMPv6, hops: 255}.frame())
}

// A pod sends nothing that a node would unwrap: the packet inside could have any source.
func TestPodsCannotSendWrappedPackets(t *testing.T) {
	s := newScene(t)
	for i, own := range s.client.Addrs {
		node, peer := fabrictest.NodeIPs(0)[i], fabrictest.NodeIPs(1)[i]
		outside := netip.MustParseAddr(names["OUTSIDE"][i])
		remote := netip.MustParseAddr(names["REMOTE"][i])
		base := netip.MustParseAddr([]string{"10.244.1.0", "fd00:10:244:1::"}[i]) // the node's own, on its overlay
		inner := datagram(s.server.Addrs[i], remote, 9)
		for _, to := range []netip.Addr{node, peer, outside, base} {
			for name, p := range map[string]packet{
				"VXLAN": wrapped(own, to, overlayID, inner.frame()), "another's VXLAN": wrapped(own, to, 1, inner.frame()), "IP in IP": inIP(own, to, inner),
			} {
				for range 3 { // with ever more headers before it
					s.wantRun(t, fmt.Sprintf("%s to %s behind %d options", name, to, p.options), "from_pod", p.frame(), podpath.VerdictDrop, "wrapped")
					p.options++
				}
				p.options, p.fragment = 0, 1
				s.wantRun(t, fmt.Sprintf("%s to %s in fragments", name, to), "from_pod", p.frame(), podpath.VerdictDrop, "wrapped")
			}
		}
		s.wantRun(t, "VXLAN to a pod elsewhere", "from_pod", wrapped(own, remote, 1, inner.frame()).frame(), podpath.VerdictRedirect, "neighbour_node")
		s.wantRun(t, "IP in IP to a pod here", "from_pod", inIP(own, s.server.Addrs[i], inner).frame(), podpath.VerdictRedirect, "peer")
		s.wantRun(t, "a datagram to the node", "from_pod", datagram(own, node, podnet.VXLANPort+1).frame(), podpath.VerdictStack, "stack")
	}
}

// Packets at an uplink: whose source do they have, and can they arrive at this uplink?
func TestSourcesAtTheUplink(t *testing.T) {
	s := newScene(t)
	for i, victim := range s.client.Addrs {
		node, peer := fabrictest.NodeIPs(0)[i], fabrictest.NodeIPs(1)[i]
		router, remote, own := fabrictest.RouterIPs()[i], netip.MustParseAddr(names["REMOTE"][i]), s.server.Addrs[i]
		nobodys := netip.MustParseAddr([]string{"10.244.77.9", "fd00:10:244:77::9"}[i]) // in the cluster's range, no node's
		vxlan := func(from, source netip.Addr) packet {
			return wrapped(from, node, overlayID, datagram(source, victim, 9).frame())
		}
		short, wrong := wrapped(peer, node, overlayID, nil), wrapped(peer, node, overlayID, bytes.Repeat([]byte{0xee}, 60))
		first := vxlan(router, remote)
		first.fragment = 1
		for _, c := range []struct {
			name    string
			packet  packet
			verdict uint32
			moved   string
		}{
			{"VXLAN of a node for its pod", vxlan(peer, remote), podpath.VerdictStack, "stack"},
			{"VXLAN of a node for itself", vxlan(peer, peer), podpath.VerdictStack, "stack"},
			{"VXLAN of a stranger", vxlan(router, remote), podpath.VerdictDrop, "wrapped_forged"},
			{"its first fragment", first, podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN of a stranger as itself", vxlan(router, router), podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN of a node for another's pod", vxlan(peer, own), podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN of a node for another node", vxlan(peer, node), podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN of a node for a stranger", vxlan(peer, router), podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN without a packet", short, podpath.VerdictDrop, "wrapped_forged"},
			{"VXLAN with no IP packet", wrong, podpath.VerdictDrop, "wrapped_forged"},
			{"somebody else's VXLAN", wrapped(router, node, 1, datagram(remote, victim, 9).frame()), podpath.VerdictStack, "stack"},
			{"a pod elsewhere", datagram(remote, victim, 9), podpath.VerdictRedirect, "peer"},
			{"a pod elsewhere to the host", datagram(remote, node, 9), podpath.VerdictStack, "stack"},
			{"a pod of this node", datagram(own, victim, 9), podpath.VerdictDrop, "forged"},
			{"a pod of this node to the host", datagram(own, node, 9), podpath.VerdictDrop, "forged"},
			{"a pod of no node", datagram(nobodys, victim, 9), podpath.VerdictDrop, "forged"},
		} {
			for range 2 { // the second one is in skep_path_sources
				s.wantRun(t, c.name, "from_uplink", c.packet.frame(), c.verdict, c.moved)
			}
			verdict := uint32(podpath.VerdictStack) // valid packets at another interface are not Skep's
			if c.verdict == podpath.VerdictDrop {
				verdict = podpath.VerdictDrop
			}
			if got, _ := run(t, s.host, "from_other", s.client.Index, c.packet.frame()); got != verdict {
				t.Errorf("%s, at another interface: verdict %d, want %d", c.name, int32(got), int32(verdict))
			}
		}
	}
}

// wantRun gives a frame to a program at the client's interface.
func (s *scene) wantRun(t *testing.T, name, program string, frame []byte, verdict uint32, count string) {
	t.Helper()
	before := counters(t, s.host)
	got, _ := run(t, s.host, program, s.client.Index, frame)
	if got != verdict {
		t.Errorf("%s: verdict %d, want %d", name, int32(got), int32(verdict))
	}
	wantMovedBeside(t, name, before, counters(t, s.host), neighbourTalk, program+"/"+count)
}

// Forged VXLAN to a node, or unwrapped packets from pods that are reached by the overlay, reach no pod, and nodes' own
// packets still arrive.
func TestForgedOverlayPacketsGoNowhere(t *testing.T) {
	f := fabrictest.NewRouted(t, 2)
	f.OpenPaths()
	h := f.Hosts[1]
	friend, target := f.Hosts[0].NewPod("friend"), h.NewPod("target")
	var received net.PacketConn
	target.Do(func() (err error) {
		received, err = net.ListenPacket("udp", ":9")
		return err
	})
	defer received.Close()
	var overlay net.HardwareAddr
	h.Do(func() error {
		device, err := net.InterfaceByName("skep-vxlan4")
		if err == nil {
			overlay = device.HardwareAddr
		}
		return err
	})
	lan := addLAN(t, h)
	for i, outer := range fabrictest.RouterIPs() {
		inner := datagram(friend.Addrs[i], target.Addrs[i], 9).frame()
		copy(inner, overlay)
		for name, p := range map[string]packet{
			"from the router":      wrapped(outer, fabrictest.NodeIPs(1)[i], overlayID, inner),
			"from a pod's address": wrapped(friend.Addrs[i], fabrictest.NodeIPs(1)[i], overlayID, inner),
			"unwrapped":            datagram(friend.Addrs[i], target.Addrs[i], 9),
		} {
			frame := p.frame()
			var mac net.HardwareAddr
			h.Do(func() error {
				device, err := net.InterfaceByName("eth0")
				if err == nil {
					mac = device.HardwareAddr
				}
				return err
			})
			copy(frame, mac)
			reason := "from_uplink/wrapped_forged"
			if name == "unwrapped" {
				reason = "from_uplink/forged"
			}
			before := counters(t, h)[reason]
			f.Router.Do(func() error { return sendFrame(h.Name, frame) })
			awaitMoved(t, h, reason, before, fmt.Sprintf("VXLAN %s to %s", name, outer))
			if name == "unwrapped" {
				continue // the host's own routes send no packet of that source back by the other interface
			}
			copy(frame, lan)
			before = counters(t, h)[reason]
			h.Do(func() error { return sendFrame("lan1", frame) })
			awaitMoved(t, h, reason, before, fmt.Sprintf("VXLAN %s to %s at another interface", name, outer))

		}
		// The first that arrives is what the friend sent.
		friend.Do(func() error {
			conn, err := net.Dial("udp", netip.AddrPortFrom(target.Addrs[i], 9).String())
			if err != nil {
				return err
			}
			_, err = conn.Write([]byte("friend"))
			return errors.Join(err, conn.Close())
		})
		received.SetReadDeadline(time.Now().Add(fabrictest.Deadline))
		got := make([]byte, 64)
		n, from, err := received.ReadFrom(got)
		if err != nil || string(got[:n]) != "friend" {
			t.Errorf("received %q from %v, %v; want what the pod elsewhere sent", got[:n], from, err)
		}
	}
}

// awaitMoved waits until a count of the host's path is more than before.
func awaitMoved(t *testing.T, h *fabrictest.Host, reason string, before uint64, why string) {
	t.Helper()
	for end := time.Now().Add(fabrictest.Deadline); counters(t, h)[reason] == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: %s did not move", why, reason)
		}
	}
}

// addLAN gives a host an interface lan0 that is not an uplink; what is sent by lan1 arrives there. An uplink that becomes such an
// interface has only its program.
func addLAN(t *testing.T, h *fabrictest.Host) (mac net.HardwareAddr) {
	t.Helper()
	h.Do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1"}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		for _, name := range []string{"lan0", "lan1"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			if name == "lan0" {
				mac = link.Attrs().HardwareAddr
			}
		}
		return errors.Join(h.Path.SetUplinks(append(slices.Clone(h.Uplinks()), "lan0"), nil), h.Path.SetUplinks(h.Uplinks(), []string{"lan0", "gone"}))
	})
	var index int
	h.Do(func() error {
		link, err := net.InterfaceByName("lan0")
		if err == nil {
			index = link.Index
		}
		return err
	})
	pins, err := filepath.Glob(filepath.Join(h.Pins, "path", "links", fmt.Sprintf("%d-*", index)))
	if err != nil || len(pins) != 1 || !strings.HasSuffix(pins[0], "-skep_from_other") {
		t.Fatalf("programs at an interface that is no uplink: %v, %v", pins, err)
	}
	return mac
}

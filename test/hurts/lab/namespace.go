package lab

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// Namespace is a network namespace in which things are served and asked for.
type Namespace struct{ *sandbox.Namespace }

// Host is the network namespace of the test process.
func Host(tb testing.TB) *Namespace { return &Namespace{sandbox.Host(tb)} }

// NewNamespace makes one that has the addresses of sandbox.Loopback.
func NewNamespace(tb testing.TB) *Namespace {
	tb.Helper()
	n := &Namespace{sandbox.NewNamespace(tb)}
	n.Do(sandbox.Loopback)
	return n
}

// Link joins two namespaces by a veth pair with an address at each end. cut
// makes the link drop every packet.
func Link(tb testing.TB, a *Namespace, addrA netip.Addr, b *Namespace, addrB netip.Addr) (cut func()) {
	tb.Helper()
	serial := links
	links++
	nameA, nameB := fmt.Sprintf("lab%da", serial), fmt.Sprintf("lab%db", serial)
	a.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: nameA},
			PeerName:      nameB,
			PeerNamespace: netlink.NsFd(b.FD()),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair: %w", err)
		}
		return configure(nameA, addrA, addrB)
	})
	b.Do(func() error { return configure(nameB, addrB, addrA) })
	return func() {
		tb.Helper()
		drop(tb, b, nameB)
	}
}

var links int

func configure(name string, own, peer netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	bits := own.BitLen()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", own, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: peer.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		Src:       own.AsSlice(),
	})
}

// drop drops all packets that arrive at a link: as on a cut wire, the sender gets
// no error.
func drop(tb testing.TB, n *Namespace, name string) {
	tb.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer program.Close()
	n.Do(func() error {
		device, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		attached, err := link.AttachXDP(link.XDPOptions{
			Interface: device.Attrs().Index, Program: program, Flags: link.XDPGenericMode,
		})
		if err != nil {
			return fmt.Errorf("drop what arrives at %s: %w", name, err)
		}
		tb.Cleanup(func() { attached.Close() })
		return nil
	})
}

// xdpDrop is XDP_DROP of linux/bpf.h.
const xdpDrop = 1

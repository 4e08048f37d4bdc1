package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. Its loopback is up, with all of
// 127.0.0.0/8, and fd00::1 to fd00::9.
type Namespace struct{ file *os.File }

// Host is the network namespace of the test process.
func Host(tb testing.TB) *Namespace {
	tb.Helper()
	file, err := os.Open("/proc/self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { file.Close() })
	return &Namespace{file}
}

// NewNamespace makes one, which ends with the test and its last socket.
func NewNamespace(tb testing.TB) *Namespace {
	tb.Helper()
	n := &Namespace{}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return loopback()
	})
	if err != nil {
		tb.Fatal("make network namespace: ", err)
	}
	tb.Cleanup(func() { n.file.Close() })
	return n
}

// Path names the namespace for as long as the test runs.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()) }

// Do runs f on a thread of its own inside the namespace: the sockets that f
// makes belong to it, wherever they are used.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (n *Namespace) must(tb testing.TB, f func() error) {
	tb.Helper()
	if err := n.Do(f); err != nil {
		tb.Fatal(err)
	}
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for i := 1; i <= 9; i++ {
		ip := net.ParseIP(fmt.Sprintf("fd00::%d", i))
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(lo, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(lo)
}

// Link joins two namespaces by a veth pair with an address at each end. cut
// makes every packet between them vanish.
func Link(tb testing.TB, a *Namespace, addrA netip.Addr, b *Namespace, addrB netip.Addr) (cut func()) {
	tb.Helper()
	serial := links
	links++
	nameA, nameB := fmt.Sprintf("lab%da", serial), fmt.Sprintf("lab%db", serial)
	a.must(tb, func() error {
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: nameA},
			PeerName:      nameB,
			PeerNamespace: netlink.NsFd(int(b.file.Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair: %w", err)
		}
		return configure(nameA, addrA, addrB)
	})
	b.must(tb, func() error { return configure(nameB, addrB, addrA) })
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

// drop throws away all that arrives at a link: as on a cut wire, nobody tells
// the sender.
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
	n.must(tb, func() error {
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

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// xdpPass is XDP_PASS of linux/bpf.h.
const xdpPass = 2

// LikeWire makes a virtual interface of the calling thread's namespace work like a real one: it receives the frames that XDP
// sends from its other end, which needs a program here, and computes checksums of what it sends, since XDP there needs whole packets.
func LikeWire(name string) error {
	device, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := sumHere(name); err != nil {
		return fmt.Errorf("turn checksum offload of %s off: %w", name, err)
	}
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetXdpFdWithFlags(device, pass.FD(), unix.XDP_FLAGS_DRV_MODE), pass.Close())
}

func sumHere(name string) error {
	return Ethtool(name, unsafe.Pointer(&struct{ command, data uint32 }{command: unix.ETHTOOL_STXCSUM}))
}

// Ethtool sends a command to the driver of an interface of the calling thread's namespace.
func Ethtool(name string, command unsafe.Pointer) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request := struct {
		name    [unix.IFNAMSIZ]byte
		command unsafe.Pointer
		_       [16]byte
	}{command: command}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

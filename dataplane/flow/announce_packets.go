package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

var (
	broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC  = [6]byte{0x33, 0x33, 0, 0, 0, 1}
	allNodes     = netip.MustParseAddr("ff02::1")
)

// neighbourSocket sends frames in the network namespace that it was opened in, whichever thread uses it.
type neighbourSocket struct{ fd int }

func openNeighbourSocket() (*neighbourSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return &neighbourSocket{fd: fd}, nil
}

func (s *neighbourSocket) close() error { return unix.Close(s.fd) }

// announce sends a gratuitous ARP (request and reply, since hosts differ in which they accept) or an unsolicited neighbour
// advertisement (RFC 4861, 7.2.6).
func (s *neighbourSocket) announce(u uplink, addr netip.Addr) error {
	frames := [][]byte{advertisement(u.mac, addr)}
	if addr.Is4() {
		frames = [][]byte{gratuitousARP(u.mac, addr, 1), gratuitousARP(u.mac, addr, 2)}
	}
	for _, frame := range frames {
		to := &unix.SockaddrLinklayer{Ifindex: u.index, Halen: 6}
		copy(to.Addr[:], frame[:6])
		if err := unix.Sendto(s.fd, frame, 0, to); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// listen makes the interface receive solicitations for an IPv6 address, which neighbours send to a multicast group that no
// socket on this host has joined. That outlasts this process, as the program does.
func (s *neighbourSocket) listen(u uplink, addr netip.Addr, on bool) error {
	if addr.Is4() {
		return nil // asked by broadcast
	}
	var request struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [14]byte
		_      [8]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], u.name)
	bytes := addr.As16()
	copy(request.mac[:], []byte{0x33, 0x33, 0xff, bytes[13], bytes[14], bytes[15]})
	operation := uintptr(unix.SIOCADDMULTI)
	if !on {
		operation = unix.SIOCDELMULTI
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), operation, uintptr(unsafe.Pointer(&request)))
	if errno != 0 && (on || errno != unix.ENOENT) {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

func ethernet(to, from [6]byte, kind uint16) []byte {
	frame := append(to[:], from[:]...)
	return binary.BigEndian.AppendUint16(frame, kind)
}

func gratuitousARP(mac [6]byte, addr netip.Addr, operation byte) []byte {
	frame := ethernet(broadcastMAC, mac, etherARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, operation)
	frame = append(append(frame, mac[:]...), addr.AsSlice()...)
	return append(append(frame, broadcastMAC[:]...), addr.AsSlice()...)
}

func advertisement(mac [6]byte, addr netip.Addr) []byte {
	const length, override = 32, 0x20
	body := []byte{136, 0, 0, 0, override, 0, 0, 0}
	body = append(append(body, addr.AsSlice()...), 2, 1)
	body = append(body, mac[:]...)

	pseudo := append(append(addr.AsSlice(), allNodes.AsSlice()...), 0, 0, 0, length, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo, body))

	frame := ethernet(allNodesMAC, mac, etherIPv6)
	frame = append(frame, 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, 255)
	frame = append(append(frame, addr.AsSlice()...), allNodes.AsSlice()...)
	return append(frame, body...)
}

// checksum is that of the Internet protocols over parts of even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, part := range parts {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

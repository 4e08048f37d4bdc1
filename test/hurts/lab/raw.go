package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// SendTCP sends a TCP segment without a socket in the namespace: data and an acknowledgement at the given place.
func (n *Namespace) SendTCP(tb testing.TB, from, to netip.AddrPort, sequence uint32) {
	tb.Helper()
	n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, segment(from, to, sequence), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
	})
}

func segment(from, to netip.AddrPort, sequence uint32) []byte {
	const headerLength, flags, window = 20, 0x18 /* PSH, ACK */, 512
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = append(b, headerLength/4<<4, flags)
	b = binary.BigEndian.AppendUint16(b, window)
	b = append(b, 0, 0, 0, 0) // checksum, urgent pointer
	b = append(b, "late data"...)
	binary.BigEndian.PutUint16(b[16:], checksum(from.Addr(), to.Addr(), b))
	return b
}

// checksum is the one of RFC 9293, section 3.1, pseudo header included.
func checksum(from, to netip.Addr, segment []byte) uint16 {
	data := append(append([]byte(nil), from.AsSlice()...), to.AsSlice()...)
	data = append(data, 0, unix.IPPROTO_TCP)
	data = binary.BigEndian.AppendUint16(data, uint16(len(segment)))
	data = append(data, segment...)
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for ; len(data) > 0; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

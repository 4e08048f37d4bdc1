package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The parts of a packet. Addresses decide the family; checksums are computed from scratch.

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

var (
	routerMAC = [6]byte{0x02, 0, 0, 0, 0, 0xaa}
	nodeMAC   = [6]byte{0x02, 0, 0, 0, 0, 0x01}
	peerMAC   = [6]byte{0x02, 0, 0, 0, 0, 0x02}
)

// packet is an IP packet; zero fields have the usual values.
type packet struct {
	from, to netip.AddrPort
	protocol uint8
	hops     uint8 // 0: 64
	class    uint8
	id       uint16 // IPv4 identification, IPv6: low bits of the flow label
	df       bool
	options  int // words of IPv4 options, or IPv6 destination options of 8 bytes
	fragment *fragment

	flags    uint8 // TCP
	seq, ack uint32
	closed   bool // window 0
	noSum    bool // UDP without a checksum
	payload  []byte
	raw      []byte // instead of a transport header and payload
}

type fragment struct {
	offset int // in bytes
	more   bool
	id     uint32
}

func tcp(from, to netip.AddrPort, flags uint8) packet {
	return packet{from: from, to: to, protocol: unix.IPPROTO_TCP, flags: flags, seq: 0x01020304, ack: 0x0a0b0c0d, df: true}
}

func udp(from, to netip.AddrPort, payload string) packet {
	return packet{from: from, to: to, protocol: unix.IPPROTO_UDP, payload: []byte(payload), df: true}
}

func sctp(from, to netip.AddrPort) packet {
	return packet{from: from, to: to, protocol: unix.IPPROTO_SCTP, df: true}
}

// tunnel wraps a packet as the program does.
func tunnel(from, to netip.Addr, hint uint16, class uint8, inner packet) packet {
	protocol := uint8(unix.IPPROTO_IPV6)
	if inner.v4() {
		protocol = unix.IPPROTO_IPIP
	}
	return packet{from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0), protocol: protocol, id: hint, class: class,
		df: true, raw: inner.ip()}
}

// icmp is a message about the start of another packet.
func icmp(from, to netip.Addr, kind, code uint8, rest uint32, about []byte) packet {
	p := packet{from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0), protocol: unix.IPPROTO_ICMP}
	body := append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest), about...)
	var pseudo []byte
	if !p.v4() {
		p.protocol = unix.IPPROTO_ICMPV6
		pseudo = p.pseudo(len(body))
	}
	binary.BigEndian.PutUint16(body[2:], sum(pseudo, body))
	p.raw = body
	return p
}

func (p packet) v4() bool { return p.from.Addr().Is4() }

// ip returns the packet from its IP header on.
func (p packet) ip() []byte {
	body := p.body()
	if p.hops == 0 {
		p.hops = 64
	}
	if p.v4() {
		return append(p.ipv4(len(body)), body...)
	}
	return append(p.ipv6(len(body)), body...)
}

func (p packet) body() []byte {
	body := p.raw
	if body == nil {
		body = p.transport()
	}
	if f := p.fragment; f != nil {
		end := len(body)
		if f.more {
			end = min(end, f.offset+fragmentSize)
		}
		body = body[f.offset:end]
	}
	return body
}

// fragmentSize is how much of a packet a fragment of the tests has.
const fragmentSize = 64

func (p packet) transport() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.from.Port())
	b = binary.BigEndian.AppendUint16(b, p.to.Port())
	at := 0
	switch p.protocol {
	case unix.IPPROTO_TCP:
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, 5<<4, p.flags, 0x20, 0, 0, 0, 0, 0)
		if p.closed {
			b[14] = 0
		}
		at = 16
	case unix.IPPROTO_UDP:
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
		at = 6
	default:
		return append(b, 1, 2, 3, 4, 5, 6, 7, 8) // SCTP: tag and a checksum that depends on no address
	}
	b = append(b, p.payload...)
	value := sum(p.pseudo(len(b)), b)
	if p.protocol == unix.IPPROTO_UDP && value == 0 {
		value = 0xffff
	}
	if p.noSum {
		value = 0
	}
	binary.BigEndian.PutUint16(b[at:], value)
	return b
}

func (p packet) pseudo(length int) []byte {
	b := append(p.from.Addr().AsSlice(), p.to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, p.protocol)
}

func (p packet) ipv4(body int) []byte {
	header := 20 + 4*p.options
	b := []byte{0x40 | byte(header/4), p.class}
	b = binary.BigEndian.AppendUint16(b, uint16(header+body))
	id, flags := p.id, uint16(0)
	if p.df {
		flags = 0x4000
	}
	if f := p.fragment; f != nil {
		id, flags = uint16(f.id), uint16(f.offset/8)
		if f.more {
			flags |= 0x2000
		}
	}
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, p.hops, p.protocol, 0, 0)
	b = append(append(b, p.from.Addr().AsSlice()...), p.to.Addr().AsSlice()...)
	for range p.options {
		b = append(b, 1, 1, 1, 1) // no operation
	}
	binary.BigEndian.PutUint16(b[10:], sum(b))
	return b
}

func (p packet) ipv6(body int) []byte {
	var extensions []byte
	next := p.protocol
	if f := p.fragment; f != nil {
		offset := uint16(f.offset)
		if f.more {
			offset |= 1
		}
		extensions = binary.BigEndian.AppendUint16([]byte{next, 0}, offset)
		extensions = binary.BigEndian.AppendUint32(extensions, f.id)
		next = unix.IPPROTO_FRAGMENT
	}
	for range p.options {
		extensions = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, extensions...) // padding
		next = unix.IPPROTO_DSTOPTS
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.class)<<20|uint32(p.id))
	b = binary.BigEndian.AppendUint16(b, uint16(len(extensions)+body))
	b = append(b, next, p.hops)
	b = append(append(b, p.from.Addr().AsSlice()...), p.to.Addr().AsSlice()...)
	return append(b, extensions...)
}

func (p packet) frame(to, from [6]byte) []byte {
	kind := uint16(etherIPv6)
	if p.v4() {
		kind = 0x0800
	}
	return append(ethernet(to, from, kind), p.ip()...)
}

// arriving is the packet as it comes from the router.
func (p packet) arriving() []byte { return p.frame(nodeMAC, routerMAC) }

// sum is the checksum over parts, computed from nothing but them.
func sum(parts ...[]byte) uint16 {
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
		if len(part)%2 == 1 {
			all = append(all, 0)
		}
	}
	return checksum(all)
}

// describeFrame prints a frame as text.
func describeFrame(frame []byte) string {
	if len(frame) < 14 {
		return fmt.Sprintf("% x", frame)
	}
	text := fmt.Sprintf("%x > %x type %04x, %d bytes\n", frame[6:12], frame[:6], frame[12:14], len(frame))
	for at := 14; at < len(frame); at += 16 {
		text += fmt.Sprintf("  %4d  % x\n", at-14, frame[at:min(at+16, len(frame))])
	}
	return text
}

func diffFrames(t *testing.T, got, want []byte) {
	t.Helper()
	a, b := strings.Split(describeFrame(got), "\n"), strings.Split(describeFrame(want), "\n")
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		var left, right string
		if i < len(a) {
			left = a[i]
		}
		if i < len(b) {
			right = b[i]
		}
		if left == right {
			fmt.Fprintf(&out, "    %s\n", left)
			continue
		}
		fmt.Fprintf(&out, "got %s\nwant%s\n", left, right)
	}
	t.Errorf("packet out:\n%s", out.String())
}

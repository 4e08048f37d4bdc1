package podpath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolGRE    = 47
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

// packet is one as its sender describes it; zero fields get a sender's usual values.
type packet struct {
	from, to   string // "address:port"
	protocol   byte
	flags      byte
	hops       byte
	payload    int
	noChecksum bool // UDP
	fragment   int  // 1: the first, 2: a later one
	id         uint16
	about      *packet
	raw        []byte // instead of a transport header and payload
	options    int    // 8 bytes of IPv4 options or of IPv6 destination options each
}

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func (p packet) ends() (from, to netip.AddrPort) {
	return netip.MustParseAddrPort(p.from), netip.MustParseAddrPort(p.to)
}

// frame is the packet behind an Ethernet header.
func (p packet) frame() []byte {
	from, _ := p.ends()
	kind := []byte{0x08, 0x00}
	if from.Addr().Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return bytes.Join([][]byte{macB, macA, kind, p.ip()}, nil)
}

func (p packet) ip() []byte {
	from, to := p.ends()
	protocol, body := p.protocol, p.transport()
	switch {
	case p.fragment == 1:
		body = body[:len(body)/2/8*8]
	case p.fragment == 2:
		body = body[len(body)/2/8*8:]
	}
	hops := p.hops
	if hops == 0 {
		hops = 64
	}
	if from.Addr().Is4() {
		h := append(make([]byte, 20), bytes.Repeat([]byte{1}, 8*p.options)...) // no operation
		h[0], h[8], h[9] = byte(0x40|len(h)/4), hops, protocol
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(body)))
		binary.BigEndian.PutUint16(h[4:], 0x1234+p.id)
		switch p.fragment {
		case 1:
			h[6] = 0x20
		case 2:
			binary.BigEndian.PutUint16(h[6:], uint16(len(p.transport())/2/8))
		}
		copy(h[12:], from.Addr().AsSlice())
		copy(h[16:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(h, body...)
	}
	if p.fragment != 0 {
		extension := make([]byte, 8)
		extension[0] = protocol
		if p.fragment == 1 {
			extension[3] = 1
		} else {
			binary.BigEndian.PutUint16(extension[2:], uint16(len(p.transport())/2/8*8))
		}
		binary.BigEndian.PutUint32(extension[4:], 0x12345678)
		protocol, body = 44, append(extension, body...)
	}
	for range p.options {
		protocol, body = 60, append([]byte{protocol, 0, 1, 4, 0, 0, 0, 0}, body...)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, hops
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], from.Addr().AsSlice())
	copy(h[24:], to.Addr().AsSlice())
	return append(h, body...)
}

func (p packet) transport() []byte {
	if p.raw != nil {
		return p.raw
	}
	from, to := p.ends()
	var h []byte
	at := 0
	payload := bytes.Repeat([]byte{'x'}, p.payload)
	switch p.protocol {
	case protocolTCP:
		h, at = make([]byte, 20), 16
		binary.BigEndian.PutUint32(h[4:], 1000)
		binary.BigEndian.PutUint32(h[8:], 2000)
		h[12], h[13] = 5<<4, p.flags
	case protocolUDP:
		h, at = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	case protocolSCTP:
		h = make([]byte, 12)
	case protocolGRE:
		return payload
	case protocolICMP:
		quoted := p.about.ip()
		return withChecksum(append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted[:min(len(quoted), 548)]...), 2, nil)
	case protocolICMPv6:
		if p.about == nil { // a neighbour solicitation
			return withChecksum(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, to.Addr().AsSlice()...), 2, pseudo(from, to, p.protocol, 24))
		}
		body := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, p.about.ip()...)
		return withChecksum(body, 2, pseudo(from, to, p.protocol, len(body)))
	}
	binary.BigEndian.PutUint16(h, from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	body := append(h, payload...)
	if at == 0 || p.noChecksum {
		return body
	}
	return withChecksum(body, at, pseudo(from, to, p.protocol, len(body)))
}

func pseudo(from, to netip.AddrPort, protocol byte, size int) []byte {
	b := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return binary.BigEndian.AppendUint32(b, uint32(protocol))
}

func withChecksum(body []byte, at int, pseudo []byte) []byte {
	binary.BigEndian.PutUint16(body[at:], checksum(append(bytes.Clone(pseudo), body...)))
	return body
}

// checksum is that of RFC 1071; over bytes that contain a right one it is 0.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// show describes a frame, with what is wrong about its checksums.
func show(frame []byte) string {
	if len(frame) < 34 {
		return fmt.Sprintf("%d bytes", len(frame))
	}
	return showIP(frame[14:], true)
}

func showIP(b []byte, whole bool) string {
	var from, to netip.Addr
	var protocol, hops byte
	var body []byte
	note := ""
	if b[0]>>4 == 4 {
		if checksum(b[:20]) != 0 {
			note += " BAD IP CHECKSUM"
		}
		from, to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		protocol, hops, body = b[9], b[8], b[20:]
		if fragment := binary.BigEndian.Uint16(b[6:]) & 0x3fff; fragment != 0 {
			note, whole = note+fmt.Sprintf(" fragment %#x", fragment), false
		}
		if whole && int(binary.BigEndian.Uint16(b[2:])) != len(b) {
			note += " BAD LENGTH"
		}
	} else {
		from, to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		protocol, hops, body = b[6], b[7], b[40:]
		if protocol == 44 {
			protocol = body[0]
			note, whole = note+fmt.Sprintf(" fragment %#x", binary.BigEndian.Uint16(body[2:])), false
			body = body[8:]
		}
	}
	return fmt.Sprintf("%s hops %d%s", showTransport(from, to, protocol, body, whole), hops, note)
}

func showTransport(from, to netip.Addr, protocol byte, body []byte, whole bool) string {
	ports := func(name string) string {
		return fmt.Sprintf("%s > %s %s", netip.AddrPortFrom(from, binary.BigEndian.Uint16(body)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(body[2:])), name)
	}
	sum := checksum(append(pseudo(netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0), protocol, len(body)), body...))
	bad := ""
	if whole && sum != 0 {
		bad = " BAD CHECKSUM"
	}
	switch protocol {
	case protocolTCP:
		if !whole {
			return ports("TCP")
		}
		return ports("TCP") + fmt.Sprintf(" flags %#x seq %d ack %d", body[13], binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:])) + bad
	case protocolUDP:
		if whole && binary.BigEndian.Uint16(body[6:]) == 0 {
			bad = " no checksum"
		}
		return ports("UDP") + bad
	case protocolSCTP:
		return ports("SCTP")
	case protocolICMP:
		if checksum(body) != 0 {
			bad = " BAD CHECKSUM"
		} else {
			bad = ""
		}
		return fmt.Sprintf("%s > %s ICMP %d/%d%s about (%s%s)", from, to, body[0], body[1], bad, showIP(body[8:], false), quotedSum(body[8:]))
	case protocolICMPv6:
		if body[0] >= 128 {
			return fmt.Sprintf("%s > %s ICMPv6 %d%s", from, to, body[0], bad)
		}
		return fmt.Sprintf("%s > %s ICMPv6 %d/%d%s about (%s%s)", from, to, body[0], body[1], bad, showIP(body[8:], false), quotedSum(body[8:]))
	}
	return fmt.Sprintf("%s > %s protocol %d", from, to, protocol)
}

// quotedSum says whether the packet inside an ICMP error, if it is there in full, has a wrong checksum.
func quotedSum(b []byte) string {
	header, total := 40, 40+int(binary.BigEndian.Uint16(b[4:]))
	if b[0]>>4 == 4 {
		header, total = 20, int(binary.BigEndian.Uint16(b[2:]))
	}
	if len(b) >= total && strings.Contains(showIP(b[:total], true), "BAD") {
		return " BAD INSIDE"
	}
	if len(b) < header+8 {
		return " CUT SHORT"
	}
	return ""
}

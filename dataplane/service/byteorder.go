package service

import (
	"encoding/binary"
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

// The maps hold addresses as 16 bytes and ports as 2, both in network order.
// The functions of this file are the only places that know.

func toAddress(addr netip.Addr) (a bpf.SocketAddress) {
	bytes := addr.As16()
	for i := range a.Word {
		a.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return a
}

func fromAddress(a bpf.SocketAddress) netip.Addr {
	var bytes [16]byte
	for i, word := range a.Word {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	return netip.AddrFrom16(bytes).Unmap()
}

func toNetwork(f Frontend) bpf.SocketEndpoint {
	e := bpf.SocketEndpoint{Addr: toAddress(f.Addr)}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], f.Port)
	e.Port = binary.NativeEndian.Uint16(port[:])
	e.Protocol, e.Scope = uint8(f.Protocol), uint8(f.Scope)
	return e
}

func fromNetwork(e bpf.SocketEndpoint) Frontend {
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], e.Port)
	return Frontend{
		Addr:     fromAddress(e.Addr),
		Port:     binary.BigEndian.Uint16(port[:]),
		Protocol: Protocol(e.Protocol),
		Scope:    Scope(e.Scope),
	}
}

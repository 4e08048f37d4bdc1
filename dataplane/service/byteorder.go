package service

import (
	"encoding/binary"
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

// The maps hold addresses as 16 bytes and ports as 2, both in network order.
// toNetwork and fromNetwork are the only places that know.

func toNetwork(f Frontend) bpf.SocketEndpoint {
	var e bpf.SocketEndpoint
	bytes := f.Addr.As16()
	for i := range e.Addr.Word {
		e.Addr.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], f.Port)
	e.Port = binary.NativeEndian.Uint16(port[:])
	e.Protocol, e.Scope = uint8(f.Protocol), uint8(f.Scope)
	return e
}

func fromNetwork(e bpf.SocketEndpoint) Frontend {
	var bytes [16]byte
	for i, word := range e.Addr.Word {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], e.Port)
	return Frontend{
		Addr:     netip.AddrFrom16(bytes).Unmap(),
		Port:     binary.BigEndian.Uint16(port[:]),
		Protocol: Protocol(e.Protocol),
		Scope:    Scope(e.Scope),
	}
}

package flow

import (
	"encoding/binary"
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

// The maps hold addresses as 16 bytes and ports as 2, both in network order. The functions of this file are the only ones
// that know.

func toNetwork(addr netip.Addr) bpf.UplinkAddress {
	var out bpf.UplinkAddress
	bytes := addr.As16()
	for i := range out.Word {
		out.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return out
}

func fromNetwork(in bpf.UplinkAddress) netip.Addr {
	var bytes [16]byte
	for i, word := range in.Word {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	return netip.AddrFrom16(bytes).Unmap()
}

func addrPort(e bpf.UplinkEndpoint) netip.AddrPort {
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], e.Port)
	return netip.AddrPortFrom(fromNetwork(e.Addr), binary.BigEndian.Uint16(port[:]))
}

package bpf

import (
	"encoding/binary"
	"net/netip"
)

// The maps hold addresses as 16 bytes and ports as 2, both in network order. The functions of this file are the only ones
// that know.

// ToNetwork gives an address as the member Word of every program's address type.
func ToNetwork(addr netip.Addr) (words [4]uint32) {
	bytes := addr.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return words
}

// FromNetwork undoes ToNetwork. An IPv4 address comes back as one, not mapped into IPv6.
func FromNetwork(words [4]uint32) netip.Addr {
	var bytes [16]byte
	for i, word := range words {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	return netip.AddrFrom16(bytes).Unmap()
}

// SwapPort gives a port as maps hold it, and undoes that.
func SwapPort(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

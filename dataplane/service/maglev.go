package service

import "encoding/binary"

// Sizes of Maglev tables, all prime. Every backend has the same number of places
// but for one, so that shares differ by at most backends/size.
const (
	maglevSmall  = 1021
	maglevMedium = 16381
	maglevLarge  = 65521
)

// maglevSize is the size for a number of backends: shares differ by 3 % at most
// up to 500 of them. A service that grows over a limit moves most of those flows
// that no node has stored.
func maglevSize(backends int) uint32 {
	switch {
	case backends <= 32:
		return maglevSmall
	case backends <= 500:
		return maglevMedium
	}
	return maglevLarge
}

// maglevTable returns, for each place of the table, the index of its endpoint. It
// depends on nothing but the endpoints, which have to be sorted, so
// that every node computes the same ("Maglev: A Fast and Reliable Software
// Network Load Balancer", NSDI 2016, section 3.4).
func maglevTable(size uint32, endpoints []Frontend) []int32 {
	table := make([]int32, size)
	for i := range table {
		table[i] = -1
	}
	// Each endpoint's walk over the table: where it is and how far it steps.
	at, step := make([]uint32, len(endpoints)), make([]uint32, len(endpoints))
	for i, e := range endpoints {
		hash := endpointHash(e)
		at[i] = uint32(hash % uint64(size))
		step[i] = uint32(mix(hash)%uint64(size-1)) + 1
	}
	for taken := uint32(0); ; {
		for i := range endpoints {
			for table[at[i]] >= 0 {
				at[i] = (at[i] + step[i]) % size
			}
			table[at[i]] = int32(i)
			if taken++; taken == size {
				return table
			}
		}
	}
}

// endpointHash is FNV-1a of the address and port, mixed.
func endpointHash(e Frontend) uint64 {
	hash := uint64(0xcbf29ce484222325)
	add := func(bytes ...byte) {
		for _, b := range bytes {
			hash = (hash ^ uint64(b)) * 0x100000001b3
		}
	}
	addr := e.Addr.As16()
	add(addr[:]...)
	add(binary.BigEndian.AppendUint16(nil, e.Port)...)
	return mix(hash)
}

// mix spreads every bit over the word (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

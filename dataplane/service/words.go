package service

import "github.com/skep-io/skep/bpf"

// The words of bpf/structs.h that hold several things, so that one store or one
// load has them all. The functions of this file are the only places that know.

// entry is a value of skep_frontends.
type entry struct {
	service uint32
	flags   bpf.SocketFrontendFlags
}

func (e entry) word(key bpf.SocketEndpoint) uint64 {
	return uint64(endpointCheck(key)) |
		uint64(e.service)<<bpf.SocketFrontendEntryENTRY_ID_SHIFT |
		uint64(e.flags)<<bpf.SocketFrontendEntryENTRY_FLAGS_SHIFT
}

// readEntry is false for a word that was not written for this key.
func readEntry(key bpf.SocketEndpoint, word uint64) (entry, bool) {
	return entry{
		service: uint32(word>>bpf.SocketFrontendEntryENTRY_ID_SHIFT) & uint32(bpf.SocketFrontendEntryENTRY_ID_MASK),
		flags:   bpf.SocketFrontendFlags(word >> bpf.SocketFrontendEntryENTRY_FLAGS_SHIFT),
	}, uint32(word) == endpointCheck(key)
}

// endpointCheck is what endpoint_check of bpf/selection.h computes.
func endpointCheck(key bpf.SocketEndpoint) uint32 {
	const factor = 0x9e3779b1
	check := key.Addr.Word[0]
	for _, word := range key.Addr.Word[1:] {
		check = check*factor + word
	}
	return check*factor + (uint32(key.Port) | uint32(key.Protocol)<<16 | uint32(key.Scope)<<24)
}

// run is a contiguous piece of the slot array, or of the backends themselves if
// direct. count 0: none.
type run struct {
	base, count uint32
	direct      bool
}

func (r run) word() uint64 {
	word := uint64(r.base) | uint64(r.count)<<bpf.SocketRunWordRUN_COUNT_SHIFT
	if r.direct {
		word |= 1 << bpf.SocketRunWordRUN_DIRECT_SHIFT
	}
	return word
}

func readRun(word uint64) run {
	return run{
		base:   uint32(word),
		count:  uint32(word>>bpf.SocketRunWordRUN_COUNT_SHIFT) & uint32(bpf.SocketRunWordRUN_COUNT_MASK),
		direct: word>>bpf.SocketRunWordRUN_DIRECT_SHIFT != 0,
	}
}

// directRun is the run of these backends if their ids follow one another.
func directRun(ids []uint32) (run, bool) {
	for i, id := range ids {
		if id != ids[0]+uint32(i) {
			return run{}, false
		}
	}
	if len(ids) == 0 {
		return run{}, true
	}
	return run{base: ids[0], count: uint32(len(ids)), direct: true}, true
}

package service

import "github.com/skep-io/skep/bpf"

// The machine words of bpf/structs.h that hold several fields, so that one store or
// load has them all. Only the functions of this file encode and decode them.

// entry is what a cell of skep_frontends leads to.
type entry struct {
	service uint32
	flags   bpf.SocketFrontendFlags
}

func (e entry) word(check uint32) uint64 {
	return uint64(check) |
		uint64(e.service)<<bpf.SocketFrontendEntryENTRY_ID_SHIFT |
		uint64(e.flags|bpf.SocketFrontendFlagsFRONTEND_LIVE)<<bpf.SocketFrontendEntryENTRY_FLAGS_SHIFT
}

// goneWord is the entry of a cell that had a frontend.
const goneWord = uint64(bpf.SocketFrontendFlagsFRONTEND_GONE) << bpf.SocketFrontendEntryENTRY_FLAGS_SHIFT

// readEntry is false for the word of a cell that has no frontend, or that was not
// written for a key with this check.
func readEntry(word uint64, check uint32) (entry, bool) {
	flags := bpf.SocketFrontendFlags(word >> bpf.SocketFrontendEntryENTRY_FLAGS_SHIFT)
	return entry{
		service: uint32(word>>bpf.SocketFrontendEntryENTRY_ID_SHIFT) & uint32(bpf.SocketFrontendEntryENTRY_ID_MASK),
		flags:   flags & bpf.SocketFrontendFlagsFRONTEND_KNOWN,
	}, flags&bpf.SocketFrontendFlagsFRONTEND_LIVE != 0 && uint32(word) == check
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

// directRun is the run of these backends if their ids are consecutive.
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

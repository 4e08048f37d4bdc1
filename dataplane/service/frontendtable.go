package service

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
)

const (
	frontendsEach  = uint32(bpf.SocketPlacementFRONTENDS_EACH)
	frontendProbes = uint32(bpf.SocketPlacementFRONTEND_PROBES)
	homeBackends   = uint32(bpf.SocketPlacementHOME_BACKENDS)
)

// frontendTable is skep_frontends: an open-addressed table whose cells programs
// search line by line, from the line that a key's hash names to the first cell
// that was never used. So
//
//   - the key of a cell is written before the entry that makes it live, and does
//     not change as long as a program may be reading it as another one: a cell
//     whose frontend was removed is not reused for a grace period;
//   - a cell is marked as never used again only when no search has to pass it any
//     more, and no frontend ever moves.
//
// Its methods are for one goroutine, but for get and all.
type frontendTable struct {
	memory[bpf.SocketFrontendLine]
	what    string // the map
	hash    bpf.SocketFrontendHash
	resting map[uint32]int // cells -> deletions that a program may not have seen
}

func newFrontendTable(m *ebpf.Map, write bool) (frontendTable, error) {
	shared, err := shareMemory[bpf.SocketFrontendLine](m, write)
	return frontendTable{memory: shared, what: m.String(), resting: map[uint32]int{}}, err
}

// newFrontendHash is a hash that nobody can predict, for maps of these sizes.
func newFrontendHash(lines, services uint32) bpf.SocketFrontendHash {
	hash := bpf.SocketFrontendHash{LineMask: lines - 1, Services: services}
	var seed [8]byte
	for i := range hash.Factor {
		rand.Read(seed[:]) // never fails
		hash.Factor[i] = binary.NativeEndian.Uint64(seed[:]) | 1
	}
	return hash
}

// frontendLines is how many lines hold that many frontends, at half load.
func frontendLines(frontends uint32) uint32 { return 1 << bits.Len32(frontends-1) }

// place is what endpoint_hash of bpf/frontend.h computes.
func (t *frontendTable) place(key bpf.SocketEndpoint) uint64 {
	with := &t.hash
	hash := with.Factor[5]
	for i, word := range key.Addr.Word {
		hash += uint64(word) * with.Factor[i]
	}
	hash += uint64(uint32(key.Port)|uint32(key.Protocol)<<16|uint32(key.Scope)<<24) * with.Factor[4]
	hash ^= hash >> 32
	hash *= with.Factor[6]
	return hash ^ hash>>32
}

// home is the id that a service should have whose primary frontend is at key.
func (t *frontendTable) home(key bpf.SocketEndpoint) uint32 {
	return uint32(t.place(key) >> 32 * uint64(t.hash.Services) >> 32)
}

func (t *frontendTable) check(key bpf.SocketEndpoint) uint32 {
	return uint32(t.place(key) >> 32)
}

func (t *frontendTable) lines() uint32 { return uint32(len(t.values)) }

func (t *frontendTable) cells() uint32 { return t.lines() * frontendsEach }

func (t *frontendTable) window() uint32 { return min(t.cells(), frontendProbes*frontendsEach) }

func (t *frontendTable) entryAt(cell uint32) *uint64 {
	return &t.values[cell/frontendsEach].Cell[cell%frontendsEach].Entry
}

func (t *frontendTable) keyAt(cell uint32) *bpf.SocketEndpoint {
	return &t.values[cell/frontendsEach].Cell[cell%frontendsEach].Key
}

func (t *frontendTable) first(key bpf.SocketEndpoint) uint32 {
	return (uint32(t.place(key)) & t.hash.LineMask) * frontendsEach
}

// search gives the cells in which a key may be, and their words, to the first
// that was never used.
func (t *frontendTable) search(key bpf.SocketEndpoint) iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		first := t.first(key)
		for i := range t.window() {
			cell := (first + i) % t.cells()
			word := atomic.LoadUint64(t.entryAt(cell))
			if !yield(cell, word) || word == 0 {
				return
			}
		}
	}
}

// find returns the cell where a key is live.
func (t *frontendTable) find(key bpf.SocketEndpoint) (cell uint32, e entry, ok bool) {
	check := t.check(key)
	for cell, word := range t.search(key) {
		if e, ok := readEntry(word, check); ok && *t.keyAt(cell) == key {
			return cell, e, true
		}
	}
	return 0, entry{}, false
}

// put stores the service of a frontend, in one write.
func (t *frontendTable) put(key bpf.SocketEndpoint, e entry) error {
	check, free, found := t.check(key), uint32(0), false
	for cell, word := range t.search(key) {
		if _, live := readEntry(word, check); live && *t.keyAt(cell) == key {
			free, found = cell, true
			break
		}
		if !found && (word == 0 || word == goneWord && (t.resting[cell] == 0 || *t.keyAt(cell) == key)) {
			free, found = cell, true
		}
	}
	if !found {
		return fmt.Errorf("%w: all %d entries of map %s are in use that %v may have: give more frontends with --table-sizes of skep-agent",
			errFull, t.window(), t.what, fromNetwork(key))
	}
	if *t.keyAt(free) != key {
		*t.keyAt(free) = key
	}
	atomic.StoreUint64(t.entryAt(free), e.word(check))
	return nil
}

// delete removes a frontend, in one store. Its cell is not used again until reuse
// is called with it.
func (t *frontendTable) delete(key bpf.SocketEndpoint) (cell uint32, was bool) {
	cell, _, was = t.find(key)
	if was {
		t.vacate(cell)
	}
	return cell, was
}

func (t *frontendTable) vacate(cell uint32) {
	atomic.StoreUint64(t.entryAt(cell), goneWord)
	t.resting[cell]++
}

// reuse ends the grace period of one deletion: no program still runs that may
// have read the cell before.
func (t *frontendTable) reuse(cell uint32) {
	if t.resting[cell]--; t.resting[cell] > 0 {
		return
	}
	delete(t.resting, cell)
	for i := range t.window() { // a search that passed this cell passed those before it
		at := (cell - i + t.cells()) % t.cells()
		word := atomic.LoadUint64(t.entryAt(at))
		if word == 0 {
			return
		}
		if word == goneWord && t.resting[at] == 0 && !t.passed(at) {
			atomic.StoreUint64(t.entryAt(at), 0)
		}
	}
}

// passed says whether the search for an existing frontend passes the cell.
func (t *frontendTable) passed(cell uint32) bool {
	for i := uint32(1); i < t.window(); i++ {
		at := (cell + i) % t.cells()
		word := atomic.LoadUint64(t.entryAt(at))
		if word == 0 {
			return false
		}
		if word != goneWord && (at-t.first(*t.keyAt(at))+t.cells())%t.cells() >= i {
			return true
		}
	}
	return false
}

// all reads the frontends. One that changes meanwhile is seen either way.
func (t *frontendTable) all() map[bpf.SocketEndpoint]entry {
	frontends := map[bpf.SocketEndpoint]entry{}
	for cell := range t.cells() {
		word := atomic.LoadUint64(t.entryAt(cell))
		if word == 0 || word == goneWord {
			continue
		}
		key := *t.keyAt(cell)
		if e, ok := readEntry(word, t.check(key)); ok {
			frontends[key] = e
		}
	}
	return frontends
}

// adopt returns the cells that need a grace period: an earlier process may just
// have deleted their frontends. Entries that no search finds are deleted.
func (t *frontendTable) adopt() (resting []uint32) {
	for cell := range t.cells() {
		word := atomic.LoadUint64(t.entryAt(cell))
		if word == 0 {
			continue
		}
		if word != goneWord {
			if at, _, ok := t.find(*t.keyAt(cell)); ok && at == cell {
				continue
			}
		}
		t.vacate(cell)
		resting = append(resting, cell)
	}
	return resting
}

package service

import (
	"fmt"
	"math/bits"

	"github.com/google/btree"

	"github.com/skep-io/skep/dataplane/pinned"
)

// errFull says that a table has no room: the rest of the desired state goes on.
var errFull = pinned.ErrFull

// ids hands out numbers of [0, size).
type ids struct {
	what string
	used []uint64
	full []uint64 // words of used that have no free bit
	size uint32
}

func newIDs(what string, size uint32) *ids {
	a := &ids{what: what, size: size}
	a.used = make([]uint64, (size+63)/64)
	a.full = make([]uint64, (len(a.used)+63)/64)
	for id := size; id < uint32(len(a.used)*64); id++ {
		a.mark(id)
	}
	return a
}

// allocate allocates the lowest free number from wanted on, else the lowest of all.
func (a *ids) allocate(wanted uint32) (uint32, error) {
	for _, from := range []uint32{wanted, 0} {
		if id, ok := a.next(from); ok {
			a.mark(id)
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d %s are in use: give more with --table-sizes of skep-agent", errFull, a.size, a.what)
}

// next finds the lowest free number from one on.
func (a *ids) next(from uint32) (uint32, bool) {
	if from >= a.size {
		return 0, false
	}
	word := from / 64
	if free := ^a.used[word] &^ (1<<(from%64) - 1); free != 0 {
		return word*64 + uint32(bits.TrailingZeros64(free)), true
	}
	for word++; word < uint32(len(a.used)); word = (word/64 + 1) * 64 {
		if open := ^a.full[word/64] &^ (1<<(word%64) - 1); open != 0 {
			word = word/64*64 + uint32(bits.TrailingZeros64(open))
			if word >= uint32(len(a.used)) {
				break
			}
			return word*64 + uint32(bits.TrailingZeros64(^a.used[word])), true
		}
	}
	return 0, false
}

func (a *ids) mark(id uint32) {
	a.used[id/64] |= 1 << (id % 64)
	if a.used[id/64] == ^uint64(0) {
		a.full[id/64/64] |= 1 << (id / 64 % 64)
	}
}

// reserve allocates one number; false if it is in use or out of range.
func (a *ids) reserve(id uint32) bool {
	if id >= a.size || a.used[id/64]&(1<<(id%64)) != 0 {
		return false
	}
	a.mark(id)
	return true
}

func (a *ids) release(id uint32) {
	a.used[id/64] &^= 1 << (id % 64)
	a.full[id/64/64] &^= 1 << (id / 64 % 64)
}

// runs is a buddy allocator: a run occupies the next power of two, aligned to
// it, so that allocating and freeing cost O(log size) however fragmented the
// array is.
type runs struct {
	order int // the array has 1<<order slots
	free  []*btree.BTreeG[uint32]
}

// newRuns manages size slots, rounded down to a power of two.
func newRuns(size uint32) *runs {
	r := &runs{order: bits.Len32(size) - 1}
	for range r.order + 1 {
		r.free = append(r.free, btree.NewOrderedG[uint32](8))
	}
	r.free[r.order].ReplaceOrInsert(0)
	return r
}

// orderOf returns the order of the block that holds count slots.
func orderOf(count uint32) int { return bits.Len32(count - 1) }

func (r *runs) allocate(count uint32) (run, error) {
	if count == 0 {
		return run{}, nil
	}
	want := orderOf(count)
	for order := want; order <= r.order; order++ {
		base, ok := r.free[order].DeleteMin()
		if !ok {
			continue
		}
		for order > want { // keep the lower half, free the upper
			order--
			r.free[order].ReplaceOrInsert(base + 1<<order)
		}
		return run{base: base, count: count}, nil
	}
	return run{}, fmt.Errorf("%w: no room for %d slots among %d: give more slots with --table-sizes of skep-agent", errFull, count, uint32(1)<<r.order)
}

// reserve allocates one run where it is; false if it is not aligned as allocate
// would have done, or if a part of it is taken.
func (r *runs) reserve(taken run) bool {
	if taken.count == 0 {
		return true
	}
	want := orderOf(taken.count)
	if want > r.order || taken.base&(1<<want-1) != 0 {
		return false
	}
	for order := want; order <= r.order; order++ {
		base := taken.base &^ (1<<order - 1)
		if _, ok := r.free[order].Delete(base); !ok {
			continue
		}
		for order > want { // split towards the run
			order--
			half := base + 1<<order
			if taken.base >= half {
				r.free[order].ReplaceOrInsert(base)
				base = half
			} else {
				r.free[order].ReplaceOrInsert(half)
			}
		}
		return true
	}
	return false
}

func (r *runs) release(freed run) {
	if freed.count == 0 {
		return
	}
	base := freed.base
	order := orderOf(freed.count)
	for ; order < r.order; order++ {
		buddy := base ^ 1<<order
		if _, ok := r.free[order].Delete(buddy); !ok {
			break
		}
		base = min(base, buddy)
	}
	r.free[order].ReplaceOrInsert(base)
}

package service

import (
	"fmt"
	"math/bits"

	"github.com/google/btree"

	"github.com/skep-io/skep/dataplane/pinned"
)

// errFull says that a table has no room: the rest of the desired state goes on.
var errFull = pinned.ErrFull

// ids hands out the lowest free number of [0, size).
type ids struct {
	what string
	used []uint64
	size uint32
	low  int // no word below has a free bit
}

func newIDs(what string, size uint32) *ids {
	return &ids{what: what, used: make([]uint64, (size+63)/64), size: size}
}

func (a *ids) allocate() (uint32, error) {
	for ; a.low < len(a.used); a.low++ {
		if free := ^a.used[a.low]; free != 0 {
			id := uint32(a.low*64 + bits.TrailingZeros64(free))
			if id >= a.size {
				break
			}
			a.used[a.low] |= free & -free
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d %s are in use: raise the limit", errFull, a.size, a.what)
}

// reserve takes one id; false if it is taken or out of range.
func (a *ids) reserve(id uint32) bool {
	bit := uint64(1) << (id % 64)
	if id >= a.size || a.used[id/64]&bit != 0 {
		return false
	}
	a.used[id/64] |= bit
	return true
}

func (a *ids) release(id uint32) {
	a.used[id/64] &^= 1 << (id % 64)
	a.low = min(a.low, int(id/64))
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
	return run{}, fmt.Errorf("%w: no room for %d slots among %d: raise the limit", errFull, count, uint32(1)<<r.order)
}

// reserve takes one run where it is; false if it is not aligned as allocate
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

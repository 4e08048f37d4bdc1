package service

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// twin is a simple model of the allocator: one flag per slot.
type twin []bool

func (w twin) taken(r run) bool {
	return slices.Contains(w[r.base:r.base+r.count], true)
}

func (w twin) set(r run, used bool) {
	for i := range r.count {
		w[r.base+i] = used
	}
}

// room says whether an aligned block for count slots is free.
func (w twin) room(count uint32) bool {
	size := uint32(1) << orderOf(count)
	for base := uint32(0); base+size <= uint32(len(w)); base += size {
		if !w.taken(run{base: base, count: size}) {
			return true
		}
	}
	return false
}

func block(r run) run { return run{base: r.base, count: 1 << orderOf(r.count)} }

func TestRunsAgreeWithTheirTwin(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		const size = 256
		allocator, dumb := newRuns(size), make(twin, size)
		var live []run
		for step := range 2000 {
			if random.IntN(2) == 0 || len(live) == 0 {
				count := uint32(1 + random.IntN(1<<random.IntN(7)))
				got, err := allocator.allocate(count)
				if (err == nil) != dumb.room(count) {
					t.Fatalf("seed %d step %d: %d slots: %v, twin has room: %v", seed, step, count, err, dumb.room(count))
				}
				if err != nil {
					continue
				}
				if got.count != count || dumb.taken(block(got)) {
					t.Fatalf("seed %d step %d: got %v of %d slots, part of it is in use", seed, step, got, count)
				}
				dumb.set(block(got), true)
				live = append(live, got)
				continue
			}
			i := random.IntN(len(live))
			allocator.release(live[i])
			dumb.set(block(live[i]), false)
			live = slices.Delete(live, i, i+1)
		}
		// A new allocator can reserve the runs in use, once.
		adopted := newRuns(size)
		for _, r := range live {
			if !adopted.reserve(r) || adopted.reserve(r) {
				t.Fatalf("seed %d: cannot reserve %v exactly once", seed, r)
			}
		}
		for {
			got, err := adopted.allocate(1)
			if err != nil {
				break
			}
			if dumb.taken(got) {
				t.Fatalf("seed %d: after adoption got %v, which is in use", seed, got)
			}
			dumb.set(got, true)
		}
		if slices.Contains(dumb, false) {
			t.Fatalf("seed %d: after adoption a free slot cannot be allocated", seed)
		}
	}
}

func TestRunsRefuseForeignRuns(t *testing.T) {
	allocator := newRuns(64)
	for _, r := range []run{{base: 1, count: 2}, {base: 0, count: 65}, {base: 64, count: 1}} {
		if allocator.reserve(r) {
			t.Errorf("reserved %v", r)
		}
	}
}

func TestIDsAreTheLowestFree(t *testing.T) {
	allocator := newIDs("things", 130)
	allocator.reserve(0)
	for want := uint32(1); want < 130; want++ {
		if got, err := allocator.allocate(0); err != nil || got != want {
			t.Fatalf("got %d, %v, want %d", got, err, want)
		}
	}
	if _, err := allocator.allocate(0); err == nil {
		t.Error("allocated more ids than there are")
	}
	allocator.release(128)
	allocator.release(7)
	for _, want := range []uint32{7, 128} {
		if got, err := allocator.allocate(0); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	if allocator.reserve(130) || allocator.reserve(5) {
		t.Error("reserved an id out of range or in use")
	}
}

package service

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/bpf/selectiontest"
)

// heapTable is a table that no program reads.
func heapTable(frontends uint32) *frontendTable {
	lines := frontendLines(frontends)
	return &frontendTable{
		memory:  memory[bpf.SocketFrontendLine]{values: make([]bpf.SocketFrontendLine, lines)},
		what:    "skep_frontends",
		hash:    newFrontendHash(lines, 4096),
		resting: map[uint32]int{},
	}
}

// numbered is one of many frontends, of both families and of addresses that
// follow one another.
func numbered(n int) bpf.SocketEndpoint {
	f := Frontend{Addr: number(10, 96, n/3), Port: uint16(1 + n%3), Protocol: TCP}
	if n%2 == 1 {
		f.Addr = netip.AddrFrom16([16]byte{0xfd, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	}
	return toNetwork(f)
}

// As many frontends as the limit allows find room, whatever the seed.
func TestFrontendTableHoldsItsLimit(t *testing.T) {
	const limit = 1 << 16
	for range 10 {
		table := heapTable(limit)
		for n := range limit {
			if err := table.put(numbered(n), entry{service: 1}); err != nil {
				t.Fatalf("frontend %d of %d: %v", n, limit, err)
			}
		}
		if all := table.all(); len(all) != limit {
			t.Fatalf("%d of %d frontends are in the table", len(all), limit)
		}
	}
}

// Frontends that all hash to one line fill the cells that are searched for them
// and are then refused, by name; others are not affected.
func TestFrontendTableRefusesWhatHasNoRoom(t *testing.T) {
	table := heapTable(4096)
	first := table.first(numbered(0))
	window := int(table.window())
	var crowd []bpf.SocketEndpoint
	for n := 0; len(crowd) <= window; n++ {
		if key := numbered(n); table.first(key) == first {
			crowd = append(crowd, key)
		}
	}
	for i, key := range crowd[:window] {
		if err := table.put(key, entry{service: uint32(i)}); err != nil {
			t.Fatalf("the %d. of %d: %v", i, window, err)
		}
	}
	late := crowd[window]
	err := table.put(late, entry{})
	if !errors.Is(err, errFull) || !strings.Contains(err.Error(), fromNetwork(late).String()) || !strings.Contains(err.Error(), "skep_frontends") {
		t.Errorf("one too many: %v", err)
	}
	for i, key := range crowd[:window] {
		if _, e, ok := table.find(key); !ok || e.service != uint32(i) {
			t.Errorf("the %d. is %v, %v", i, e, ok)
		}
	}
	cell, _ := table.delete(crowd[0])
	if err := table.put(late, entry{}); !errors.Is(err, errFull) {
		t.Errorf("a cell was used for another key before its rest ended: %v", err)
	}
	if err := table.put(crowd[0], entry{service: 7}); err != nil {
		t.Errorf("a cell was not used again for its own key: %v", err)
	}
	again, _ := table.delete(crowd[0])
	table.reuse(cell) // of the first deletion
	if err := table.put(late, entry{}); !errors.Is(err, errFull) {
		t.Errorf("a cell was used before its second rest ended: %v", err)
	}
	table.reuse(again)
	if err := table.put(late, entry{service: 8}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Whatever is put and deleted, and however late cells may be reused, the table
// answers as a map does, and is empty in the end.
func TestFrontendTableAgreesWithItsTwin(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 3))
		table, twin := heapTable(64), map[bpf.SocketEndpoint]entry{}
		var resting []uint32
		taken := 0
		for step := range 5000 {
			key := numbered(random.IntN(90))
			switch random.IntN(5) {
			case 0, 1:
				e := entry{service: random.Uint32N(1 << 24), flags: bpf.SocketFrontendFlags(random.IntN(8))}
				err := table.put(key, e)
				if _, there := twin[key]; errors.Is(err, errFull) && !there {
					break // the hash is random: a few put more near each other than has room
				}
				if err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				twin[key] = e
				taken++
			case 2, 3:
				_, had := twin[key]
				cell, was := table.delete(key)
				if was != had {
					t.Fatalf("seed %d step %d: deleted %v, twin %v", seed, step, was, had)
				}
				if was {
					resting = append(resting, cell)
				}
				delete(twin, key)
			default:
				if len(resting) > 20 {
					table.reuse(resting[0])
					resting = resting[1:]
				}
			}
			for range 3 {
				key := numbered(random.IntN(90))
				_, e, ok := table.find(key)
				if want, there := twin[key]; ok != there || e != want {
					t.Fatalf("seed %d step %d: %v is %v %v, twin has %v %v", seed, step, fromNetwork(key), e, ok, want, there)
				}
			}
		}
		if taken < 1000 {
			t.Fatalf("seed %d: only %d of about 2,000 were taken", seed, taken)
		}
		// Another process adopts the same cells.
		next := heapTable(64)
		next.values, next.hash = table.values, table.hash
		for _, cell := range next.adopt() {
			next.reuse(cell)
		}
		if all := next.all(); len(all) != len(twin) {
			t.Fatalf("seed %d: %d frontends adopted, want %d", seed, len(all), len(twin))
		}
		for key, want := range twin {
			if cell, e, ok := next.find(key); !ok || e != want {
				t.Fatalf("seed %d: adopted %v as %v %v, want %v", seed, fromNetwork(key), e, ok, want)
			} else {
				next.delete(key)
				next.reuse(cell)
			}
		}
		for cell := range next.cells() {
			if word := *next.entryAt(cell); word != 0 {
				t.Fatalf("seed %d: cell %d holds %#x when all frontends are gone", seed, cell, word)
			}
		}
	}
}

// Programs look frontends up while others are added and removed around them: those
// that stay are always found, the others lead to their own service or to none.
func TestFrontendTableUnderReaders(t *testing.T) {
	limits := testLimits
	limits.Frontends = 256
	p, _ := newStage(t).recording(t, limits)
	table := &p.maps.frontends
	const frontends, steps = 250, 20_000
	stays := func(n int) bool { return n%3 == 0 }
	for n := range frontends {
		if err := table.put(numbered(n), entry{service: uint32(n)}); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Bool
	var group sync.WaitGroup
	var lookups atomic.Int64
	for reader := range uint64(3) {
		s := newSelector(t, p)
		group.Go(func() {
			random := rand.New(rand.NewPCG(reader, 4))
			for !done.Load() && !t.Failed() {
				n := random.IntN(frontends)
				out := s.ask(s.objects.SkepTestSelect, fromNetwork(numbered(n)), selectiontest.SelectionSelection{})
				lookups.Add(1)
				switch why := bpf.SocketCounter(out.Reason); {
				case why == bpf.SocketCounterREASON_NO_BACKEND && out.Service == uint32(n):
				case why == bpf.SocketCounterREASON_NO_SERVICE && !stays(n):
				default:
					t.Errorf("frontend %d: service %d, %s", n, out.Service, counterLabels[why])
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(5, 5))
	var resting []uint32
	for step := 0; step < steps || lookups.Load() < steps/10; step++ {
		n := random.IntN(frontends)
		if stays(n) {
			if err := table.put(numbered(n), entry{service: uint32(n), flags: bpf.SocketFrontendFlags(random.IntN(2))}); err != nil {
				t.Fatal(err)
			}
		} else if cell, was := table.delete(numbered(n)); was {
			resting = append(resting, cell)
		} else if err := table.put(numbered(n), entry{service: uint32(n)}); err != nil && !errors.Is(err, errFull) {
			t.Fatal(err)
		}
		if len(resting) == 40 {
			waitGrace(t.Context())
			for _, cell := range resting {
				table.reuse(cell)
			}
			resting = resting[:0]
		}
		if t.Failed() {
			break
		}
	}
	done.Store(true)
	group.Wait()
	t.Log(fmt.Sprint(lookups.Load(), " lookups by programs during ", steps, " changes"))
}

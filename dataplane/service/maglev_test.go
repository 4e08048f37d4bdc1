package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// A flow's hash leads where the table says, and past down nodes to the same
// live backend each time.
func TestMaglevFollowsTheFlow(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := fleet("default/web:http", "10.96.0.1:80", 7, 3)
	service.Selection = Maglev
	p.SetService(service)
	flush(t, p)
	endpoints := make([]Frontend, 0, 7)
	for _, b := range service.Backends {
		endpoints = append(endpoints, Frontend{Addr: b.Addr, Port: b.Port, Protocol: TCP})
	}
	table := dumbMaglev(maglevSmall, endpoints)
	random := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		hash := random.Uint32()
		want := endpoints[table[hash%maglevSmall]]
		for range 2 {
			if got, why := s.flow(service.Frontends[0], hash); got.Addr != want.Addr {
				t.Fatalf("flow %#x: %v (%s), want %v", hash, got, counterLabels[why], want)
			}
		}
	}
	p.SetNodeDown("node1", true)
	flush(t, p)
	for range 300 {
		hash := random.Uint32()
		was := int(table[hash%maglevSmall])
		first, _ := s.flow(service.Frontends[0], hash)
		again, _ := s.flow(service.Frontends[0], hash)
		if first != again || (was%3 != 1 && first.Addr != endpoints[was].Addr) {
			t.Fatalf("flow %#x: %v, then %v, and %v before", hash, first, again, endpoints[was])
		}
		if i := slices.IndexFunc(endpoints, func(e Frontend) bool { return e.Addr == first.Addr }); i%3 == 1 {
			t.Fatalf("flow %#x: %v is on a down node", hash, first)
		}
	}
}

// dumbMaglev is a simple model after the paper: whole permutations, then turns.
func dumbMaglev(size int, endpoints []Frontend) []int {
	var permutations [][]int
	for _, e := range endpoints {
		hash := endpointHash(e)
		offset, skip := int(hash%uint64(size)), int(mix(hash)%uint64(size-1))+1
		var permutation []int
		for j := range size {
			permutation = append(permutation, (offset+j*skip)%size)
		}
		permutations = append(permutations, permutation)
	}
	table := slices.Repeat([]int{-1}, size)
	for filled := 0; filled < size; {
		for i := range endpoints {
			j := slices.IndexFunc(permutations[i], func(place int) bool { return table[place] == -1 })
			if j < 0 {
				break
			}
			table[permutations[i][j]] = i
			filled++
		}
	}
	return table
}

func TestMaglevTable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{1, 2, 3, 10, 32} {
		endpoints := make([]Frontend, 0, n)
		for range n {
			endpoints = append(endpoints, Frontend{Addr: netip.AddrFrom4([4]byte{10, 244, byte(random.Uint32()), byte(random.Uint32())}), Port: 80, Protocol: TCP})
		}
		slices.SortFunc(endpoints, compareFrontends)
		endpoints = slices.Compact(endpoints)
		table := maglevTable(maglevSmall, endpoints)
		places := make([]int, len(endpoints))
		for i, want := range dumbMaglev(maglevSmall, endpoints) {
			if int(table[i]) != want {
				t.Fatalf("%d endpoints: place %d has %d, the twin %d", n, i, table[i], want)
			}
			places[want]++
		}
		if slices.Max(places)-slices.Min(places) > 1 {
			t.Errorf("%d endpoints: places %v", n, places)
		}
		if len(endpoints) < 3 {
			continue
		}
		// One is removed: few of the others' places change their endpoint.
		gone := len(endpoints) / 2
		rest := slices.Delete(slices.Clone(endpoints), gone, gone+1)
		moved := 0
		for i, now := range maglevTable(maglevSmall, rest) {
			if int(table[i]) != gone && endpoints[table[i]] != rest[now] {
				moved++
			}
		}
		if moved > maglevSmall/10 {
			t.Errorf("%d endpoints, one gone: %d of %d other places changed hands", n, moved, maglevSmall)
		}
	}
}

// The table depends on the backends alone: not on ids, nor on what was before.
func TestMaglevIsTheSameOnEveryNode(t *testing.T) {
	service := fleet("default/web:http", "10.96.0.1:80", 9, 3)
	service.Selection = Maglev
	flows := func(before int) (out []Frontend) {
		p := newStage(t).open(t)
		s := newSelector(t, p)
		for i := range before {
			p.SetService(fleet(fmt.Sprintf("default/%d:p", i), fmt.Sprintf("10.96.1.%d:80", i), 5, 2))
		}
		less := service
		less.Backends = service.Backends[:len(service.Backends)-before%2]
		p.SetService(less)
		flush(t, p)
		p.SetService(service)
		flush(t, p)
		for hash := range uint32(500) {
			got, _ := s.flow(service.Frontends[0], hash*2654435761)
			out = append(out, got)
		}
		return out
	}
	if a, b := flows(0), flows(7); !slices.Equal(a, b) {
		t.Error("two nodes with the same backends choose differently")
	}
}

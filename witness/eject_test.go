package witness

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestEject(t *testing.T) {
	for _, c := range []struct {
		name  string
		zones map[string]int // nodes by zone: "a" has a0, a1, ...; the node itself is a0
		gone  []string
		down  []string // by the control plane
		out   []string
		held  map[string]int
	}{
		{name: "nothing", zones: map[string]int{"a": 3}},
		{name: "one of three", zones: map[string]int{"a": 3}, gone: []string{"a1"}, out: []string{"a1"}},
		{name: "two of six are a third", zones: map[string]int{"a": 6}, gone: []string{"a1", "a2"}, held: map[string]int{"a": 2}},
		{name: "two of seven are less", zones: map[string]int{"a": 7}, gone: []string{"a1", "a2"}, out: []string{"a1", "a2"}},
		{name: "another zone goes on", zones: map[string]int{"a": 6, "b": 7}, gone: []string{"a1", "a2", "b0"}, out: []string{"b0"}, held: map[string]int{"a": 2}},
		{name: "the control plane has confirmed them", zones: map[string]int{"a": 6}, gone: []string{"a1", "a2"}, down: []string{"a1", "a2"}, out: []string{"a1", "a2"}},
		{name: "and one more", zones: map[string]int{"a": 6}, gone: []string{"a1", "a2", "a3"}, down: []string{"a1", "a2"}, out: []string{"a1", "a2", "a3"}},
		{name: "the node itself", zones: map[string]int{"a": 3}, gone: []string{"a0"}},
		{name: "never all others", zones: map[string]int{"a": 1, "b": 1, "c": 1}, gone: []string{"b0", "c0"}},
		{name: "one of two others", zones: map[string]int{"a": 1, "b": 1, "c": 1}, gone: []string{"b0"}, out: []string{"b0"}},
	} {
		var nodes []Node
		for zone, count := range c.zones {
			for i := range count {
				name := fmt.Sprintf("%s%d", zone, i)
				nodes = append(nodes, Node{Name: name, Zone: zone, Down: slices.Contains(c.down, name)})
			}
		}
		got := Eject("a0", nodes, func(name string) bool { return slices.Contains(c.gone, name) })
		if !slices.Equal(got.Out, c.out) || !maps.Equal(got.Held, c.held) {
			t.Errorf("%s: out %v, held %v; want %v, %v", c.name, got.Out, got.Held, c.out, c.held)
		}
	}
}

// Whatever seems gone: a node that the control plane counts as up is left, fewer than a third of a zone's are out, and one alone is.
func TestEjectionIsBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		var nodes []Node
		gone := map[string]bool{}
		for i := range 2 + random.IntN(20) {
			n := Node{Name: fmt.Sprint(i), Zone: fmt.Sprint(random.IntN(3))}
			n.Down = random.IntN(5) == 0
			gone[n.Name] = random.IntN(4) == 0
			nodes = append(nodes, n)
		}
		e := Eject("0", nodes, func(name string) bool { return gone[name] })
		out, total := map[string]int{}, map[string]int{}
		left := 0
		for _, n := range nodes {
			is := slices.Contains(e.Out, n.Name)
			if is && (!gone[n.Name] || n.Name == "0") {
				t.Fatalf("%v, gone %v: %s is out", nodes, gone, n.Name)
			}
			if n.Down {
				continue
			}
			total[n.Zone]++
			if is {
				out[n.Zone]++
			} else if n.Name != "0" {
				left++
			}
		}
		for zone, n := range out {
			if n >= heldFrom && n*heldShare >= total[zone] {
				t.Fatalf("%v, gone %v: %d of %d nodes of zone %s are out", nodes, gone, n, total[zone], zone)
			}
		}
		if left == 0 && len(e.Out) > 0 {
			t.Fatalf("%v, gone %v: all others are out", nodes, gone)
		}
	}
}

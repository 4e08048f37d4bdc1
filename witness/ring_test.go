package witness

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// testKey is the same key for a name each time.
func testKey(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func testNode(name string) Node {
	return Node{Name: name, Key: testKey(name).Public().(ed25519.PublicKey), Alive: true}
}

func testNodes(count int) (nodes []Node) {
	for i := range count {
		nodes = append(nodes, testNode(fmt.Sprintf("node%d", i)))
	}
	return nodes
}

// Every node watches as many others as watch it, in a cluster of any size, and all compute the same in whatever order they know the nodes.
func TestTheLoadIsTheSameForAll(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 4, 5, 10, 100, 1000} {
		nodes := testNodes(size)
		ring := NewRing(nodes)
		rand.Shuffle(size, func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		other := NewRing(nodes)
		want := min(Watchers, max(size-1, 0))
		for _, n := range nodes {
			watchers, watched := ring.Watchers(n.Name), ring.Watched(n.Name)
			if len(watchers) != want || len(watched) != want {
				t.Errorf("of %d nodes, %s has watchers %v and watches %v, want %d", size, n.Name, watchers, watched, want)
			}
			if slices.Contains(watchers, n.Name) {
				t.Errorf("of %d nodes, %s watches itself", size, n.Name)
			}
			if !slices.Equal(watchers, other.Watchers(n.Name)) {
				t.Errorf("of %d nodes, %s is watched by %v and %v by the order in which they are known", size, n.Name, watchers, other.Watchers(n.Name))
			}
		}
	}
}

// Watched is Watchers the other way round, also with nodes that are not alive or have no key: they watch nobody.
func TestWatchedIsTheInverse(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		nodes := testNodes(1 + random.IntN(12))
		for i := range nodes {
			nodes[i].Alive = random.IntN(3) > 0
			if random.IntN(6) == 0 {
				nodes[i].Key = nil
			}
		}
		ring := NewRing(nodes)
		for _, a := range nodes {
			for _, b := range nodes {
				if watches := slices.Contains(ring.Watched(a.Name), b.Name); watches != ring.IsWatcher(a.Name, b.Name) {
					t.Fatalf("%v: %s watches %s: %v by Watched, %v by Watchers", nodes, a.Name, b.Name, watches, !watches)
				}
				if ring.IsWatcher(a.Name, b.Name) && (!a.Alive || a.Key == nil || b.Key == nil) {
					t.Fatalf("%v: %s watches %s", nodes, a.Name, b.Name)
				}
			}
		}
	}
}

// One node more changes the duties of its neighbours alone.
func TestAJoinMovesFew(t *testing.T) {
	nodes := testNodes(500)
	before := NewRing(nodes)
	after := NewRing(append(slices.Clone(nodes), testNode("another")))
	changed := 0
	for _, n := range nodes {
		if !slices.Equal(before.Watchers(n.Name), after.Watchers(n.Name)) {
			changed++
		}
	}
	if changed != Watchers {
		t.Errorf("a node more changed the watchers of %d nodes, want %d", changed, Watchers)
	}
}

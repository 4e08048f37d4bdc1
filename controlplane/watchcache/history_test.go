package watchcache_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// history writes random transactions and keeps the state after each.
func history(t *testing.T, s storage.Interface, seed uint64, n int) (revisions []int64, states map[int64]state) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, seed))
	live := state{}
	states = map[int64]state{}
	for i := range n {
		var ops []storage.Op
		changed := map[string]*corev1.Pod{}
		for range 1 + r.IntN(4) {
			p := pod(fmt.Sprintf("ns%d", r.IntN(2)), fmt.Sprintf("p%d", r.IntN(6)), fmt.Sprintf("node%d", r.IntN(3)), fmt.Sprint(i))
			op := putOp(t, p)
			if _, twice := changed[op.Key]; twice {
				continue
			}
			if _, ok := live[op.Key]; ok && r.IntN(3) == 0 {
				op, p = storage.Op{Key: op.Key, Delete: true}, nil
			}
			changed[op.Key] = p
			ops = append(ops, op)
		}
		revision := commit(t, s, ops...)
		for key, p := range changed {
			if delete(live, key); p != nil {
				live[key] = fmt.Sprintf("%s@%d on %s", p.Annotations["mark"], revision, p.Spec.NodeName)
			}
		}
		revisions, states[revision] = append(revisions, revision), maps.Clone(live)
	}
	return revisions, states
}

// replay applies a watch's events to what was there, until that of the last revision.
func replay(t *testing.T, w *watchcache.Watcher, from state, last int64) state {
	t.Helper()
	got := maps.Clone(from)
	if got == nil {
		got = state{}
	}
	before := int64(0)
	for {
		events, err := w.Next(testContext(t))
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		for _, ev := range events {
			if ev.Revision < before && ev.Type != watch.Added {
				t.Fatalf("event of %d after one of %d", ev.Revision, before)
			}
			before = ev.Revision
			if ev.Type == watch.Bookmark {
				continue
			}
			_, known := got[ev.Object.Key]
			switch {
			case ev.Type == watch.Added && known, ev.Type != watch.Added && !known:
				t.Fatalf("%s of %s at %d, which is known: %t", ev.Type, ev.Object.Key, ev.Revision, known)
			case ev.Type == watch.Deleted:
				if ev.Object.Revision != ev.Revision {
					t.Fatalf("deleted %s has revision %d, want %d", ev.Object.Key, ev.Object.Revision, ev.Revision)
				}
				delete(got, ev.Object.Key)
			default:
				got[ev.Object.Key] = describe(ev.Object)
			}
		}
		if before >= last {
			return got
		}
	}
}

// filtered is the part of a state that passes a filter on the node.
func (s state) filtered(node string) state {
	got := maps.Clone(s)
	maps.DeleteFunc(got, func(_, v string) bool { return !strings.HasSuffix(v, " on "+node) })
	return got
}

func onNode(node string) func(*watchcache.Object) bool {
	return func(o *watchcache.Object) bool { return slices.Contains(nodeName(o.Value()), node) }
}

// A last pod on every node of interest ends each watch, filtered or not.
func finish(t *testing.T, s storage.Interface, states map[int64]state, revisions []int64) int64 {
	t.Helper()
	p := pod("ns0", "last", "node1", "last")
	revision := commit(t, s, putOp(t, p))
	final := maps.Clone(states[revisions[len(revisions)-1]])
	final[prefix+"ns0/last"] = fmt.Sprintf("last@%d on node1", revision)
	states[revision] = final
	return revision
}

func TestEveryRevisionIsAsTheTwinHasIt(t *testing.T) {
	for seed := range uint64(3) {
		s := newStore(t)
		c := newCache(t, s, 0)
		revisions, states := history(t, s, seed, 80)
		last := finish(t, s, states, revisions)
		if err := c.WaitUntil(testContext(t), last); err != nil {
			t.Fatal(err)
		}
		for _, revision := range append(slices.Clone(revisions), last) {
			snapshot, err := c.SnapshotAt(revision)
			if err != nil {
				t.Fatalf("seed %d: snapshot at %d: %v", seed, revision, err)
			}
			if got := stateOf(snapshot); !maps.Equal(got, states[revision]) {
				t.Fatalf("seed %d: state at %d\n%v, want\n%v", seed, revision, got, states[revision])
			}
		}
		for _, revision := range revisions {
			w, err := c.Watch(watchcache.WatchOptions{After: revision})
			if err != nil {
				t.Fatal(err)
			}
			if got := replay(t, w, states[revision], last); !maps.Equal(got, states[last]) {
				t.Fatalf("seed %d: watch after %d ends with\n%v, want\n%v", seed, revision, got, states[last])
			}
			w.Stop()
			for _, trigger := range []*watchcache.Trigger{nil, {Index: "spec.nodeName", Value: "node1"}} {
				w, err := c.Watch(watchcache.WatchOptions{After: revision, Filter: onNode("node1"), Trigger: trigger})
				if err != nil {
					t.Fatal(err)
				}
				got := replay(t, w, states[revision].filtered("node1"), last)
				if want := states[last].filtered("node1"); !maps.Equal(got, want) {
					t.Fatalf("seed %d: filtered watch after %d (trigger %v) ends with\n%v, want\n%v", seed, revision, trigger, got, want)
				}
				w.Stop()
			}
		}
		indexed := state{}
		for _, o := range c.ByIndex("spec.nodeName", "node1") {
			indexed[o.Key] = describe(o)
		}
		if want := states[last].filtered("node1"); !maps.Equal(indexed, want) {
			t.Errorf("seed %d: index has %v, want %v", seed, indexed, want)
		}
	}
}

func TestLiveWatchesSeeWhatTheTwinHas(t *testing.T) {
	s := newStore(t)
	c := newCache(t, s, 0)
	revisions, states := history(t, s, 7, 20)
	if err := c.WaitUntil(testContext(t), revisions[len(revisions)-1]); err != nil {
		t.Fatal(err)
	}
	byName := &watchcache.Trigger{Index: watchcache.ByName, Value: "last"}
	all, err := c.Watch(watchcache.WatchOptions{Initial: true})
	if err != nil {
		t.Fatal(err)
	}
	node1, err := c.Watch(watchcache.WatchOptions{Initial: true, Filter: onNode("node1"), Trigger: &watchcache.Trigger{Index: "spec.nodeName", Value: "node1"}})
	if err != nil {
		t.Fatal(err)
	}
	named, err := c.Watch(watchcache.WatchOptions{Initial: true, Trigger: byName, Filter: func(o *watchcache.Object) bool { return o.Value().GetName() == "last" }})
	if err != nil {
		t.Fatal(err)
	}
	ns0, err := c.Watch(watchcache.WatchOptions{Initial: true, Prefix: prefix + "ns0/", Trigger: &watchcache.Trigger{Index: watchcache.ByNamespace, Value: "ns0"}})
	if err != nil {
		t.Fatal(err)
	}
	// The twin starts from an empty store; the objects of its first part are deleted first.
	var ops []storage.Op
	for key := range states[revisions[len(revisions)-1]] {
		ops = append(ops, storage.Op{Key: key, Delete: true})
	}
	commit(t, s, ops...)
	revisions, states = history(t, s, 8, 60)
	last := finish(t, s, states, revisions)
	inNS0 := maps.Clone(states[last])
	maps.DeleteFunc(inNS0, func(key, _ string) bool { return !strings.HasPrefix(key, prefix+"ns0/") })
	for name, tc := range map[string]struct {
		w    *watchcache.Watcher
		want state
	}{
		"all": {all, states[last]}, "node1": {node1, states[last].filtered("node1")}, "ns0": {ns0, inNS0},
		"named": {named, state{prefix + "ns0/last": states[last][prefix+"ns0/last"]}},
	} {
		if got := replay(t, tc.w, nil, last); !maps.Equal(got, tc.want) {
			t.Errorf("%s: ends with %v, want %v", name, got, tc.want)
		}
	}
}

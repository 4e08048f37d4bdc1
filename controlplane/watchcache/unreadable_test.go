package watchcache_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// rubbish is a value that cannot be decoded.
var rubbish = []byte("k8s\x00\xff\xff\xff")

// A stored object that cannot be decoded is not deleted: on a Deleted event an agent would stop the pod. Neither the watch nor a new list
// removes it, and when it can be decoded again that is one change.
func TestUnreadableObjectsKeepTheirLastState(t *testing.T) {
	s := &lossyStore{Interface: newStore(t), cut: make(chan struct{}), relist: make(chan struct{})}
	c := newCache(t, s, 0)
	first := commit(t, s, putOp(t, pod("ns", "a", "node1", "good")))
	if err := c.WaitUntil(testContext(t), first); err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(watchcache.WatchOptions{After: first})
	if err != nil {
		t.Fatal(err)
	}
	key := prefix + "ns/a"
	broken := commit(t, s, storage.Op{Key: key, Value: rubbish})
	neverGood := commit(t, s, storage.Op{Key: prefix + "ns/never", Value: rubbish})
	check := func(when string) {
		t.Helper()
		o, ok := c.Get(key)
		if !ok || o.Revision != first || len(c.ByIndex("spec.nodeName", "node1")) != 1 || c.Snapshot().Len() != 1 {
			t.Fatalf("%s: the cache has %v (%v), want the state of revision %d", when, o, ok, first)
		}
		found := c.Unreadable(prefix)
		if len(found) != 2 || !found[0].Kept || found[0].Revision != broken || found[0].Err == nil || found[1].Kept {
			t.Fatalf("%s: unreadable are %+v", when, found)
		}
	}
	if err := c.WaitUntil(testContext(t), neverGood); err != nil {
		t.Fatal(err)
	}
	check("after the watch")
	s.cut <- struct{}{}
	elsewhere := commit(t, s, storage.Op{Key: "/registry/elsewhere", Value: []byte("x")})
	s.relist <- struct{}{}
	if err := c.WaitUntil(testContext(t), elsewhere); err != nil {
		t.Fatal(err)
	}
	check("after a new list")
	mended := commit(t, s, putOp(t, pod("ns", "a", "node1", "mended")), storage.Op{Key: prefix + "ns/never", Delete: true})
	events, err := w.Next(testContext(t))
	if err != nil || len(events) != 1 || events[0].Type != watch.Modified || events[0].Revision != mended {
		t.Fatalf("the watch sees %+v (%v), want the mended object alone", events, err)
	}
	if found := c.Unreadable(prefix); len(found) != 0 {
		t.Errorf("unreadable are still %+v", found)
	}
	commit(t, s, storage.Op{Key: key, Value: rubbish})
	commit(t, s, storage.Op{Key: key, Delete: true})
	if events, err = w.Next(testContext(t)); err != nil || len(events) != 1 || events[0].Type != watch.Deleted {
		t.Fatalf("the watch sees %+v (%v), want the deletion", events, err)
	}
}

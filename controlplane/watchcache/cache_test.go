package watchcache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

const prefix = "/registry/pods/"

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newStore(t *testing.T) *storage.Etcd {
	t.Helper()
	s, err := etcd.Start(testContext(t), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return storage.NewEtcd(s.Client)
}

func nodeName(r watchcache.Resource) []string {
	if name := r.(*corev1.Pod).Spec.NodeName; name != "" {
		return []string{name}
	}
	return nil
}

func newCache(t *testing.T, s storage.Interface, window int) *watchcache.Cache {
	t.Helper()
	c := watchcache.New(watchcache.Config{
		Store: s, Prefix: prefix, Codec: scheme.Codec, Window: window,
		Indexes: map[string]func(watchcache.Resource) []string{"spec.nodeName": nodeName},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cache ended with %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	if err := c.WaitForSync(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func pod(ns, name, node, mark string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{"mark": mark}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func putOp(t *testing.T, p *corev1.Pod) storage.Op {
	t.Helper()
	value, err := scheme.Codec.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Op{Key: prefix + p.Namespace + "/" + p.Name, Value: value}
}

func commit(t *testing.T, s storage.Interface, ops ...storage.Op) int64 {
	t.Helper()
	revision, err := s.Commit(testContext(t), nil, ops)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// state is a twin's state of each key: mark@revision of the pod and its node.
type state map[string]string

func describe(o *watchcache.Object) string {
	p := o.Value().(*corev1.Pod)
	if p.ResourceVersion != fmt.Sprint(o.Revision) {
		return fmt.Sprintf("resourceVersion %s at revision %d", p.ResourceVersion, o.Revision)
	}
	return fmt.Sprintf("%s@%d on %s", p.Annotations["mark"], o.Revision, p.Spec.NodeName)
}

func stateOf(s *watchcache.Snapshot) state {
	got := state{}
	s.Ascend(prefix, "", func(o *watchcache.Object) bool { got[o.Key] = describe(o); return true })
	return got
}

func TestTheWindowEnds(t *testing.T) {
	s := newStore(t)
	c := newCache(t, s, 16)
	revisions, states := history(t, s, 3, 60)
	last := revisions[len(revisions)-1]
	if err := c.WaitUntil(testContext(t), last); err != nil {
		t.Fatal(err)
	}
	var gone *watchcache.GoneError
	if _, err := c.Watch(watchcache.WatchOptions{After: revisions[0]}); !errors.As(err, &gone) || gone.Revision != revisions[0] {
		t.Errorf("watch from the first revision: %v, want that it is gone", err)
	}
	if _, err := c.SnapshotAt(revisions[0]); !errors.As(err, &gone) {
		t.Errorf("snapshot of the first revision: %v, want that it is gone", err)
	}
	reached := 0
	for _, revision := range revisions {
		if revision < gone.Oldest {
			continue
		}
		reached++
		snapshot, err := c.SnapshotAt(revision)
		if err != nil || !maps.Equal(stateOf(snapshot), states[revision]) {
			t.Errorf("snapshot at %d, in the window from %d: %v", revision, gone.Oldest, err)
		}
	}
	if reached < 3 || reached > 17 {
		t.Errorf("a window of 16 events reaches %d revisions back", reached)
	}
}

func TestSubscribersSeeEverythingOnce(t *testing.T) {
	s := newStore(t)
	revisions, _ := history(t, s, 4, 30)
	c := newCache(t, s, 0)
	var mu sync.Mutex
	got, seen := state{}, make(chan int64, 1024)
	c.Subscribe(func(ev watchcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		if got[ev.Object.Key] = describe(ev.Object); ev.Type == watch.Deleted {
			delete(got, ev.Object.Key)
		}
		c.Get(ev.Object.Key) // a handler may read the cache
		seen <- ev.Revision
	})
	last := commit(t, s, putOp(t, pod("ns0", "last", "node1", "last")))
	for revision := range seen {
		if revision == last {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := stateOf(c.Snapshot()); !maps.Equal(got, want) {
		t.Errorf("subscriber has %v, want %v (history up to %d)", got, want, revisions[len(revisions)-1])
	}
}

func TestInitialEventsEndWithABookmark(t *testing.T) {
	s := newStore(t)
	commit(t, s, putOp(t, pod("a", "b", "node1", "1")))
	c := newCache(t, s, 0)
	w, err := c.Watch(watchcache.WatchOptions{Initial: true, InitialEventsEnd: true, Bookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.Next(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[0].Type != watch.Added || events[1].Type != watch.Bookmark || !events[1].InitialEventsEnd || events[1].Revision != c.Revision() {
		t.Errorf("initial events %+v, want the pod and the bookmark that ends them at %d", events, c.Revision())
	}
}

func TestSlowReadersAreEnded(t *testing.T) {
	s := newStore(t)
	c := newCache(t, s, 0)
	slow, err := c.Watch(watchcache.WatchOptions{After: c.Revision()})
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for i := range 200 {
		var ops []storage.Op
		for j := range 100 {
			ops = append(ops, putOp(t, pod("a", fmt.Sprintf("p%d", j), "", fmt.Sprint(i))))
		}
		last = commit(t, s, ops...)
	}
	if err := c.WaitUntil(testContext(t), last); err != nil {
		t.Fatal(err)
	}
	read := 0
	for {
		events, err := slow.Next(testContext(t))
		if err != nil {
			if !errors.Is(err, watchcache.ErrSlow) || read == 0 || read >= 20000 {
				t.Errorf("after %d of 20000 events: %v, want ErrSlow after some", read, err)
			}
			return
		}
		read += len(events)
	}
}

func TestEncodedOnce(t *testing.T) {
	o := watchcache.NewObject("k", 1, pod("a", "b", "", ""))
	calls := 0
	encode := func(runtime.Object) ([]byte, error) { calls++; return []byte("encoded"), nil }
	for range 3 {
		if data, err := o.Encoded("json", encode); err != nil || string(data) != "encoded" {
			t.Fatal(data, err)
		}
	}
	if _, err := o.Encoded("protobuf", encode); err != nil {
		t.Fatal(err)
	}
	if calls != 2 {
		t.Errorf("encoded %d times for two content types, want 2", calls)
	}
	if _, err := o.Encoded("yaml", func(runtime.Object) ([]byte, error) { return nil, errors.New("no") }); err == nil {
		t.Error("an error was kept from the caller")
	}
}

package storage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/storage"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startEtcd(t *testing.T, dir string) *etcd.Server {
	t.Helper()
	s, err := etcd.Start(testContext(t), etcd.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newStore(t *testing.T) (*storage.Etcd, *clientv3.Client) {
	s := startEtcd(t, t.TempDir())
	t.Cleanup(s.Close)
	return storage.NewEtcd(s.Client), s.Client
}

func put(t *testing.T, s *storage.Etcd, key, value string) int64 {
	t.Helper()
	revision, err := s.Commit(testContext(t), nil, []storage.Op{{Key: key, Value: []byte(value)}})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestGetAndCommit(t *testing.T) {
	s, _ := newStore(t)
	ctx := testContext(t)
	if _, err := s.Get(ctx, "/registry/pods/a/b"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("get of nothing: %v, want ErrNotFound", err)
	}
	created := put(t, s, "/registry/pods/a/b", "1")
	updated := put(t, s, "/registry/pods/a/b", "2")
	got, err := s.Get(ctx, "/registry/pods/a/b")
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Value) != "2" || got.CreateRevision != created || got.ModRevision != updated {
		t.Errorf("got %+v, want value 2, created at %d, changed at %d", got, created, updated)
	}
	if revision, err := s.Revision(ctx); err != nil || revision != updated {
		t.Errorf("revision %d, %v; want %d", revision, err, updated)
	}
}

func TestCommitIsAllOrNothing(t *testing.T) {
	s, _ := newStore(t)
	ctx := testContext(t)
	a := put(t, s, "/registry/a", "1")
	put(t, s, "/registry/b", "1")
	stale := a
	_, err := s.Commit(ctx,
		[]storage.Guard{{Key: "/registry/a", ModRevision: a}, {Key: "/registry/b", ModRevision: stale}, {Key: "/registry/c"}, {Key: "/registry/a2", ModRevision: 7}},
		[]storage.Op{{Key: "/registry/a", Value: []byte("2")}, {Key: "/registry/b", Delete: true}})
	var conflict *storage.ConflictError
	if !errors.As(err, &conflict) || !slices.Equal(conflict.Keys, []string{"/registry/b", "/registry/a2"}) {
		t.Fatalf("commit: %v, want a conflict on b and a2", err)
	}
	if got, err := s.Get(ctx, "/registry/a"); err != nil || string(got.Value) != "1" {
		t.Errorf("a is %q, %v after a commit that failed; want 1", got.Value, err)
	}
	b, err := s.Get(ctx, "/registry/b")
	if err != nil {
		t.Fatal(err)
	}
	revision, err := s.Commit(ctx,
		[]storage.Guard{{Key: "/registry/a", ModRevision: a}, {Key: "/registry/b", ModRevision: b.ModRevision}, {Key: "/registry/c"}},
		[]storage.Op{{Key: "/registry/a", Value: []byte("2")}, {Key: "/registry/b", Delete: true}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, "/registry/a"); err != nil || got.ModRevision != revision {
		t.Errorf("a changed at %d, %v; want %d", got.ModRevision, err, revision)
	}
	if _, err := s.Get(ctx, "/registry/b"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("b: %v, want that it is gone", err)
	}
}

func TestCommitTakesMaxOps(t *testing.T) {
	s, _ := newStore(t)
	var guards []storage.Guard
	var ops []storage.Op
	for i := range storage.MaxOps {
		key := fmt.Sprintf("/registry/%d", i)
		guards, ops = append(guards, storage.Guard{Key: key}), append(ops, storage.Op{Key: key, Value: []byte("v")})
	}
	if _, err := s.Commit(testContext(t), guards, ops); err != nil {
		t.Errorf("%d guards and ops: %v", storage.MaxOps, err)
	}
	again := make([]storage.Guard, len(guards))
	for i, g := range guards {
		again[i] = storage.Guard{Key: g.Key, ModRevision: 2}
	}
	lost := 0
	for _, fence := range []storage.Guard{{Key: "/skep/leader", ModRevision: 7}, {Key: "/skep/leader"}} {
		_, err := s.Commit(storage.WithFence(testContext(t), fence, func() { lost++ }), again, ops)
		if refused := errors.Is(err, storage.ErrFenced); refused != (fence.ModRevision == 7) || !refused && err != nil {
			t.Errorf("%d guards and ops under the fence %+v: %v", len(again), fence, err)
		}
	}
	if lost != 1 {
		t.Errorf("that the fence was replaced was told %d times", lost)
	}
	if _, err := s.Commit(testContext(t), append(guards, storage.Guard{Key: "/registry/x"}), ops[:1]); err == nil {
		t.Error("one guard more than MaxOps was taken")
	}
	var many []storage.Op
	for i := range 16 * (storage.MaxOps - 16) {
		many = append(many, storage.Op{Key: fmt.Sprintf("/registry/many/%d", i), Value: []byte("v")})
	}
	revision, err := s.Commit(testContext(t), []storage.Guard{{Key: "/registry/many/0"}}, many)
	if err != nil {
		t.Errorf("%d ops: %v", len(many), err)
	}
	kvs, _, err := s.List(testContext(t), "/registry/many/")
	if err != nil || len(kvs) != len(many) || kvs[0].ModRevision != revision || kvs[len(kvs)-1].ModRevision != revision {
		t.Errorf("%d of %d ops were made at revision %d (%v)", len(kvs), len(many), revision, err)
	}
	if _, err := s.Commit(testContext(t), []storage.Guard{{Key: "/registry/many/0"}}, many); !errors.As(err, new(*storage.ConflictError)) {
		t.Errorf("many ops with a guard that does not hold: %v", err)
	}
	if _, err := s.Commit(testContext(t), nil, append(many, storage.Op{Key: "/registry/x"})); err == nil {
		t.Error("one op more than that was taken")
	}
	_, err = s.Commit(testContext(t), nil, []storage.Op{{Key: "/registry/large", Value: make([]byte, 16<<20)}})
	if !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("16 MiB: %.100v, want ErrTooLarge", err)
	}
}

func TestGuardOfAllBelow(t *testing.T) {
	s, _ := newStore(t)
	put := func(guard storage.Guard, keys ...string) (int64, error) {
		var ops []storage.Op
		for _, key := range keys {
			ops = append(ops, storage.Op{Key: key, Value: []byte("v")})
		}
		return s.Commit(testContext(t), []storage.Guard{guard}, ops)
	}
	below := func(revision int64) storage.Guard {
		return storage.Guard{Key: "/skep/a/", ModRevision: revision, Below: true}
	}
	first, err := put(below(0), "/skep/a/1", "/skep/b/1")
	if err != nil {
		t.Fatalf("where there is nothing: %v", err)
	}
	conflict := new(storage.ConflictError)
	if _, err := put(below(first-1), "/skep/a/2"); !errors.As(err, &conflict) || !slices.Equal(conflict.Keys, []string{"/skep/a/"}) {
		t.Errorf("after a key was made: %v", err)
	}
	if _, err := put(below(first), "/skep/b/2"); err != nil {
		t.Errorf("beside what changed elsewhere: %v", err)
	}
	if _, err := s.Commit(testContext(t), nil, []storage.Op{{Key: "/skep/a/1", Delete: true}}); err != nil {
		t.Fatal(err)
	}
	if _, err := put(below(first), "/skep/a/3"); err != nil {
		t.Errorf("after a key went: %v", err)
	}
}

func TestListIsInOrderAndOfOneRevision(t *testing.T) {
	s, client := newStore(t)
	const n = 4500 // more than two pages
	for from := 0; from < n; from += 100 {
		ops := make([]clientv3.Op, 0, 100)
		for i := from; i < from+100; i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/registry/pods/a/%05d", i), "v"))
		}
		if _, err := client.Txn(testContext(t)).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	last := put(t, s, "/registry/podsets/a/b", "another prefix")
	kvs, revision, err := s.List(testContext(t), "/registry/pods/")
	if err != nil {
		t.Fatal(err)
	}
	if len(kvs) != n || revision != last {
		t.Fatalf("%d keys at %d, want %d at %d", len(kvs), revision, n, last)
	}
	for i, kv := range kvs {
		if want := fmt.Sprintf("/registry/pods/a/%05d", i); kv.Key != want {
			t.Fatalf("key %d is %s, want %s", i, kv.Key, want)
		}
	}
}

func TestExpiringKeysShareLeases(t *testing.T) {
	s, client := newStore(t)
	ctx := testContext(t)
	for i := range 10 {
		op := storage.Op{Key: fmt.Sprintf("/registry/events/a/%d", i), Value: []byte("v"), TTL: time.Hour}
		if _, err := s.Commit(ctx, nil, []storage.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	leases, err := client.Leases(ctx)
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("10 keys of one TTL have leases %v, %v; want one", leases, err)
	}
	watch := s.Watch(ctx, "/registry/short/", put(t, s, "/registry/x", "v"))
	begin := time.Now()
	if _, err := s.Commit(ctx, nil, []storage.Op{{Key: "/registry/short/a", Value: []byte("v"), TTL: 2 * time.Second}}); err != nil {
		t.Fatal(err)
	}
	for resp := range watch {
		if len(resp.Events) > 0 && resp.Events[0].Type == storage.Delete {
			if lived := time.Since(begin); lived < 2*time.Second {
				t.Errorf("a key with a TTL of 2 s was gone after %s", lived)
			}
			return
		}
	}
	t.Error("a key with a TTL never expired")
}

// collect reads events until that of the revision is in.
func collect(t *testing.T, watch <-chan storage.WatchResponse, until int64) []storage.Event {
	t.Helper()
	var events []storage.Event
	for resp := range watch {
		if resp.Err != nil {
			t.Fatalf("watch: %v", resp.Err)
		}
		events = append(events, resp.Events...)
		if resp.Revision >= until {
			return events
		}
	}
	t.Fatalf("watch ended before revision %d", until)
	return nil
}

func TestWatchFromEveryRevision(t *testing.T) {
	s, _ := newStore(t)
	ctx := testContext(t)
	r := rand.New(rand.NewPCG(1, 2))
	start, err := s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	type change struct {
		key      string
		revision int64
		typ      storage.EventType
		created  bool
	}
	var want []change
	live := map[string]bool{}
	for range 60 {
		key := fmt.Sprintf("/registry/pods/a/%d", r.IntN(5))
		op := storage.Op{Key: key, Value: []byte("v"), Delete: live[key] && r.IntN(3) == 0}
		revision, err := s.Commit(ctx, nil, []storage.Op{op})
		if err != nil {
			t.Fatal(err)
		}
		c := change{key: key, revision: revision, created: !op.Delete && !live[key]}
		if op.Delete {
			c.typ = storage.Delete
		}
		live[key] = !op.Delete
		want = append(want, c)
	}
	last := want[len(want)-1].revision
	for after := start; after < last; after++ {
		watchCtx, cancel := context.WithCancel(ctx)
		var got []change
		for _, ev := range collect(t, s.Watch(watchCtx, "/registry/pods/", after), last) {
			got = append(got, change{ev.Key, ev.ModRevision, ev.Type, ev.Created})
		}
		cancel()
		if expected := want[after-start:]; !slices.Equal(got, expected) {
			t.Fatalf("watch after %d: %v, want %v", after, got, expected)
		}
	}
}

func TestWatchAfterCompaction(t *testing.T) {
	s, _ := newStore(t)
	first := put(t, s, "/registry/pods/a/a", "1")
	put(t, s, "/registry/pods/a/a", "2")
	last := put(t, s, "/registry/pods/a/a", "3")
	if err := s.Compact(testContext(t), last); err != nil {
		t.Fatal(err)
	}
	watch := s.Watch(testContext(t), "/registry/pods/", first)
	if resp := <-watch; !errors.Is(resp.Err, storage.ErrCompacted) {
		t.Errorf("watch from before the compaction: %+v, want ErrCompacted", resp)
	}
	if resp, open := <-watch; open {
		t.Errorf("after its error the watch delivered %+v", resp)
	}
	if events := collect(t, s.Watch(testContext(t), "/registry/pods/", last-1), last); len(events) != 1 {
		t.Errorf("watch from the compacted revision: %v, want one event", events)
	}
}

func TestWatchReportsProgressWithoutEvents(t *testing.T) {
	s, _ := newStore(t)
	ctx := testContext(t)
	start, err := s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	watch := s.Watch(ctx, "/registry/pods/", start)
	elsewhere := put(t, s, "/registry/secrets/a/a", "v")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.RequestProgress(ctx, "/registry/pods/"); err != nil {
			t.Fatal(err)
		}
		select {
		case resp := <-watch:
			if len(resp.Events) > 0 || resp.Err != nil {
				t.Fatalf("watch delivered %+v, want progress", resp)
			}
			if resp.Revision >= elsewhere {
				return
			}
		case <-tick.C: // a request may be dropped while the watch catches up
		case <-ctx.Done():
			t.Fatal("no progress")
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s, _ := newStore(t)
	ctx, cancel := context.WithCancel(testContext(t))
	watch := s.Watch(ctx, "/registry/", 0)
	cancel()
	for range watch {
	}
}

// A watch goes on where it was when the server is replaced under it.
func TestWatchOutlivesItsServer(t *testing.T) {
	p := newServerProcess(t)
	client, err := storage.Dial(testContext(t), storage.DialConfig{Endpoints: []string{p.endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := storage.NewEtcd(client)
	start, err := s.Revision(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	watch := s.Watch(testContext(t), "/registry/", start)
	first := put(t, s, "/registry/a", "1")
	if events := collect(t, watch, first); len(events) != 1 {
		t.Fatalf("%v, want one event", events)
	}
	p.restart()
	second := put(t, s, "/registry/a", "2")
	events := collect(t, watch, second)
	if len(events) != 1 || string(events[0].Value) != "2" {
		t.Errorf("after the restart: %+v, want the second put alone", events)
	}
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	for name, cfg := range map[string]storage.DialConfig{
		"no such file": {Endpoints: []string{"https://127.0.0.1:1"}, CAFile: "/nonexistent/ca.crt"},
		"half a pair":  {Endpoints: []string{"https://127.0.0.1:1"}, CertFile: "/nonexistent/tls.crt"},
	} {
		if _, err := storage.Dial(testContext(t), cfg); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
}

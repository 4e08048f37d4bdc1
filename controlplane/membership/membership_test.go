package membership

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

func follow(t *testing.T, registry *resource.Registry) *Members {
	t.Helper()
	m := New(registry.Store())
	controlplanetest.Go(t, func(ctx context.Context) { _ = m.Run(ctx) })
	if err := m.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// stands polls until the answer is the wanted one: what another process wrote arrives a moment later.
func stands(t *testing.T, m *Members, name, id string, want Standing) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		leave, standing := m.Enter(name, id, func() {})
		if standing == Counts {
			leave()
		}
		if standing == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a certificate of %s with number %q has standing %v, want %v", name, id, standing, want)
		}
		<-time.NewTimer(time.Millisecond).C
	}
}

func makeNode(t *testing.T, registry *resource.Registry, name string) {
	t.Helper()
	controlplanetest.Create(t, registry, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func remove(t *testing.T, registry *resource.Registry, name string) {
	t.Helper()
	if _, _, err := registry.Delete(t.Context(), kinds.Nodes, "", name, nil); err != nil {
		t.Fatal(err)
	}
}

// A membership ends with the Node, in this process and in others, running or started later, and its running requests are cancelled.
func TestMembershipEndsWithTheNode(t *testing.T) {
	registry := controlplanetest.Start(t)
	here, there := follow(t, registry), follow(t, registry)
	id, err := here.Join(t.Context(), "n", false)
	if err != nil {
		t.Fatal(err)
	}
	makeNode(t, registry, "n")
	stands(t, here, "n", id, Counts)
	stands(t, there, "n", id, Counts)
	for _, wrong := range []string{"", "0", id + "0"} {
		stands(t, here, "n", wrong, Unknown)
	}
	if _, err := there.Join(t.Context(), "n", false); !errors.Is(err, ErrTaken) {
		t.Errorf("the name of a node that exists: %v", err)
	}
	under, cancel := context.WithCancel(t.Context())
	leave, standing := there.Enter("n", id, cancel)
	if standing != Counts {
		t.Fatal("not let in")
	}
	defer leave()
	remove(t, registry, "n")
	select {
	case <-under.Done():
	case <-time.After(30 * time.Second):
		t.Error("what was under way goes on")
	}
	for _, m := range []*Members{here, there, follow(t, registry)} {
		stands(t, m, "n", id, Removed)
		stands(t, m, "n", "", Unknown)
	}
	again, err := here.Join(t.Context(), "n", false)
	if err != nil || again == id {
		t.Fatalf("joined anew with number %q, was %q (%v)", again, id, err)
	}
	for _, m := range []*Members{here, there, follow(t, registry)} {
		stands(t, m, "n", again, Counts)
		stands(t, m, "n", id, Removed)
	}
}

// Nodes of an earlier version keep their certificates, which have no number, until they are deleted; other certificates without a number do
// not count.
func TestNodesFromBefore(t *testing.T) {
	registry := controlplanetest.Start(t)
	makeNode(t, registry, "old")
	for range 2 {
		if err := Record(t.Context(), registry.Store()); err != nil {
			t.Fatal(err)
		}
	}
	makeNode(t, registry, "new") // by hand: it has no certificate
	if err := Record(t.Context(), registry.Store()); err != nil {
		t.Fatal(err)
	}
	m := follow(t, registry)
	stands(t, m, "old", "", Counts)
	stands(t, m, "new", "", Unknown)
	stands(t, m, "none", "", Unknown)
	id, ok := m.Number("old")
	if !ok {
		t.Fatal("no number for the next certificate")
	}
	stands(t, m, "old", id, Counts)
	remove(t, registry, "old")
	stands(t, m, "old", "", Removed)
	stands(t, m, "old", id, Removed)
	makeNode(t, registry, "old")
	stands(t, m, "old", "", Removed)
	if id, err := m.Join(t.Context(), "old", true); err != nil {
		t.Error(err)
	} else {
		stands(t, m, "old", id, Counts)
		stands(t, m, "old", "", Removed)
	}
}

// After a restore from before a node joined, the node is unknown and not removed; a node that was removed before the snapshot is still
// removed, and one that was removed later is a member again.
func TestRestoredFromBeforeTheNodeJoined(t *testing.T) {
	start := func(dir string) (*etcd.Server, storage.Interface) {
		server, err := etcd.Start(t.Context(), etcd.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return server, storage.NewEtcd(server.Client)
	}
	run := func(store storage.Interface) (*Members, func()) {
		m := New(store)
		stop := controlplanetest.Go(t, func(ctx context.Context) { _ = m.Run(ctx) })
		if err := m.WaitForSync(t.Context()); err != nil {
			t.Fatal(err)
		}
		return m, stop
	}
	join := func(m *Members, name string) string {
		id, err := m.Join(t.Context(), name, true)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	end := func(store storage.Interface, name string) {
		var tx resource.Tx
		if err := allocator.EndMember(t.Context(), store, &tx, name); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Commit(t.Context(), tx.Guards, append(tx.Ops, storage.Op{Key: allocator.MemberKey(name), Delete: true})); err != nil {
			t.Fatal(err)
		}
	}
	server, store := start(t.TempDir())
	m, stop := run(store)
	stays, removedBefore, removedAfter, replaced := join(m, "stays"), join(m, "before"), join(m, "after"), join(m, "replaced")
	end(store, "before")
	file := filepath.Join(t.TempDir(), "snapshot.db")
	reader, err := server.Maintainer().Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	end(store, "after")
	late, replacement := join(m, "late"), join(m, "replaced")
	for id, want := range map[string]Standing{replaced: Removed, replacement: Counts} {
		stands(t, m, "replaced", id, want)
	}
	stop()
	server.Close()

	dir := t.TempDir()
	if err := etcd.Restore(file, dir); err != nil {
		t.Fatal(err)
	}
	server, store = start(dir)
	t.Cleanup(server.Close)
	m, stop = run(store)
	defer stop()
	stands(t, m, "stays", stays, Counts)
	stands(t, m, "before", removedBefore, Removed)
	stands(t, m, "after", removedAfter, Counts)
	stands(t, m, "late", late, Unknown)
	stands(t, m, "replaced", replaced, Counts)
	stands(t, m, "replaced", replacement, Unknown)
	again := join(m, "late")
	stands(t, m, "late", again, Counts)
	stands(t, m, "late", late, Unknown)
}

// A join applies its own write after the watch has seen the node's deletion: the certificate does not count again.
func TestLateWordOfAJoin(t *testing.T) {
	m := New(nil)
	key, value := allocator.MemberKey("n"), []byte(`{"id":"1"}`)
	m.apply(key, value, 10, false)
	stands(t, m, "n", "1", Counts)
	m.apply(key, nil, 11, true)
	m.apply(key, value, 10, false)
	stands(t, m, "n", "1", Unknown)
	if id, ok := m.Number("n"); ok {
		t.Errorf("number %q of a node that was removed", id)
	}
}

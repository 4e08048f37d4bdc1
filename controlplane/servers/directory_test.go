package servers

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/storage"
)

// A server that ends without a word leaves the list of those alive within seconds, and one that ends in order at once; both stay known.
func TestDeadServersLeaveTheList(t *testing.T) {
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	store := storage.NewEtcd(server.Client)
	record := func(name, address string) Record {
		return Record{Name: name, URL: "https://" + address + ":6443", Address: netip.MustParseAddr(address)}
	}
	a := NewDirectory(store, record("a", "192.0.2.1"))
	if _, ok := a.Alive(); ok {
		t.Error("who is alive is known before it is read")
	}
	changed := make(chan struct{}, 100)
	a.OnChange(func() { changed <- struct{}{} })
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = a.Run(ctx) })

	await := func(what string, want ...string) {
		t.Helper()
		deadline := time.After(60 * time.Second)
		for {
			alive, ok := a.Alive()
			var have []string
			for _, addr := range alive {
				have = append(have, addr.String())
			}
			if ok && slices.Equal(have, want) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("%s: %v are alive, want %v", what, have, want)
			}
		}
	}
	killed := NewDirectory(store, record("b", "192.0.2.2"))
	killed.known["a"] = a.self // it is one of several
	if err := killed.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	ending := NewDirectory(store, record("c", "192.0.2.3"))
	ended, end := context.WithCancel(t.Context())
	var last sync.WaitGroup
	last.Go(func() { _ = ending.Run(ended) })
	began := time.Now()
	await("all", "192.0.2.1", "192.0.2.2", "192.0.2.3")
	end()
	last.Wait()
	await("b was killed", "192.0.2.1")
	t.Logf("missed after %v", time.Since(began).Round(time.Millisecond))
	if known := a.Known(); len(known) != 3 || known[1].Name != "b" || !a.Several() {
		t.Errorf("the servers are %+v", known)
	}
	if err := a.forget(t.Context(), killed.self); err != nil {
		t.Fatal(err)
	}
	for len(a.Known()) != 2 {
		select {
		case <-changed:
		case <-time.After(60 * time.Second):
			t.Fatalf("the servers are %+v", a.Known())
		}
	}
}

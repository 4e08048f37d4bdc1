package watchcache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Many caches on one in-process etcd client, with many readers each that wait for a
// revision, once stopped for good: the reader of every stream waited for the other.
func TestManyReadersOnOneClientNeverBlock(t *testing.T) {
	store := newStore(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var caches []*watchcache.Cache
	var running sync.WaitGroup
	for i := range 40 {
		c := watchcache.New(watchcache.Config{Store: store, Prefix: fmt.Sprintf("/registry/kind%d/", i%14), Codec: scheme.Codec})
		caches = append(caches, c)
		running.Go(func() { _ = c.Run(ctx) })
	}
	for _, c := range caches {
		if err := c.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var readers sync.WaitGroup
	for r := range 100 {
		readers.Go(func() {
			for i := range 20 {
				key := fmt.Sprintf("/registry/kind%d/a/%d", (r+i)%14, r)
				revision, err := store.Commit(ctx, nil, []storage.Op{{Key: key, Delete: true}, {Key: key + "x", Value: []byte("v")}})
				if err == nil {
					err = caches[(r*7+i)%len(caches)].WaitUntil(ctx, revision)
				}
				if err != nil {
					t.Errorf("reader %d: %v", r, err)
					return
				}
			}
		})
	}
	within(t, "the readers", &readers)
	cancel()
	within(t, "the caches", &running)
}

func within(t *testing.T, who string, group *sync.WaitGroup) {
	t.Helper()
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s have not ended within a minute", who)
	}
}

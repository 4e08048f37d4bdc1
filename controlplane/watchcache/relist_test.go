package watchcache_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// lossyStore is a real store that loses the history of a watch: after cut, the
// running watch ends as by a compaction, and the list that follows waits for a
// value on relist.
type lossyStore struct {
	storage.Interface
	cut, relist chan struct{}
	listed      bool
}

func (s *lossyStore) List(ctx context.Context, prefix string) ([]storage.KeyValue, int64, error) {
	if s.listed {
		<-s.relist
	}
	s.listed = true
	return s.Interface.List(ctx, prefix)
}

func (s *lossyStore) Watch(ctx context.Context, prefix string, after int64) <-chan storage.WatchResponse {
	inner, cancel := context.WithCancel(ctx)
	out := make(chan storage.WatchResponse)
	go func() {
		defer close(out)
		defer cancel()
		responses := s.Interface.Watch(inner, prefix, after)
		for {
			select {
			case resp, ok := <-responses:
				if !ok {
					return
				}
				out <- resp
			case <-s.cut:
				out <- storage.WatchResponse{Revision: after, Err: storage.ErrCompacted}
				return
			}
		}
	}()
	return out
}

func TestWatchersSeeTheDifferenceAfterHistoryWasLost(t *testing.T) {
	s := &lossyStore{Interface: newStore(t), cut: make(chan struct{}), relist: make(chan struct{})}
	c := newCache(t, s, 0)
	revisions, states := history(t, s, 5, 30)
	before := revisions[len(revisions)-1]
	if err := c.WaitUntil(testContext(t), before); err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(watchcache.WatchOptions{After: before})
	if err != nil {
		t.Fatal(err)
	}
	s.cut <- struct{}{}
	deleted := 0
	for key := range states[before] {
		if deleted++; deleted%2 == 0 {
			commit(t, s, storage.Op{Key: key, Delete: true})
		}
	}
	changed := pod("ns0", "p0", "node1", "changed while nobody looked")
	last := commit(t, s, putOp(t, changed), putOp(t, pod("ns0", "last", "node1", "last")))
	s.relist <- struct{}{}
	if err := c.WaitUntil(testContext(t), last); err != nil {
		t.Fatal(err)
	}
	if got, want := replay(t, w, states[before], last), stateOf(c.Snapshot()); !maps.Equal(got, want) || want[prefix+"ns0/last"] == "" {
		t.Errorf("after the loss the watch ends with %v, want %v", got, want)
	}
	var gone *watchcache.GoneError
	if _, err := c.Watch(watchcache.WatchOptions{After: before}); !errors.As(err, &gone) {
		t.Errorf("watch from before the loss: %v, want that it is gone", err)
	}
}

package watchcache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // the first may have run beside what it should have freed
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// emptyStore holds nothing itself, unlike etcd in this process: what the heap grows by is the cache's. Its one watch delivers
// what is sent.
type emptyStore struct {
	storage.Interface
	events chan storage.WatchResponse
}

func (s *emptyStore) List(context.Context, string) ([]storage.KeyValue, int64, error) {
	return nil, 1, nil
}

func (s *emptyStore) Watch(ctx context.Context, _ string, _ int64) <-chan storage.WatchResponse {
	context.AfterFunc(ctx, func() { close(s.events) })
	return s.events
}

// Large objects that are written repeatedly are dropped from the window for their bytes, long before they are too many, and a watch that
// nobody reads is ended for its bytes too: together they hold a bounded part of what was written.
func TestLargeObjectsAreBoundedByBytes(t *testing.T) {
	const size, writes = 1 << 20, 160
	s := &emptyStore{events: make(chan storage.WatchResponse)}
	c := newCache(t, s, 0)
	first := c.Revision()
	before := heap()
	stuck, err := c.Watch(watchcache.WatchOptions{After: first})
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Stop()
	reading, err := c.Watch(watchcache.WatchOptions{After: first})
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Stop()
	last := first
	for i := range writes {
		last++
		op := putOp(t, pod("a", "large", "", fmt.Sprint(i)+strings.Repeat("x", size)))
		s.events <- storage.WatchResponse{Revision: last, Events: []storage.Event{{
			Key: op.Key, Value: op.Value, ModRevision: last, Type: storage.Put, Created: i == 0,
		}}}
		events, err := reading.Next(testContext(t))
		if err != nil || len(events) != 1 || events[0].Revision != last {
			t.Fatalf("the watch that is read has %d events after write %d: %v", len(events), i, err)
		}
	}
	if grown := heap() - before; grown > 2*watchcache.DefaultWindowBytes {
		t.Errorf("the heap has grown by %d MiB over %d writes of 1 MiB", grown>>20, writes)
	}
	var gone *watchcache.GoneError
	if _, err := c.Watch(watchcache.WatchOptions{After: first}); !errors.As(err, &gone) {
		t.Errorf("a watch from before %d MiB of events: %v, want that they are gone", writes, err)
	}
	resumed, err := c.Watch(watchcache.WatchOptions{After: last - 3})
	if err != nil {
		t.Errorf("a watch from three writes ago: %v", err)
	} else {
		defer resumed.Stop()
	}
	read := 0
	for {
		events, err := stuck.Next(testContext(t))
		read += len(events)
		if err != nil {
			if !errors.Is(err, watchcache.ErrSlow) || read == 0 || read > 17 {
				t.Errorf("the watch that was not read ended after %d events with %v, want ErrSlow after at most 16 MiB", read, err)
			}
			return
		}
	}
}

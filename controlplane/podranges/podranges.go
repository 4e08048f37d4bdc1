// Package podranges keeps the ranges of pods' addresses that were added to a cluster after its start. All servers read them from the store,
// where they are one key, /skep/podcidrs-added. It gives no part of a range to a node (that is allocator), and does not decide which ranges
// may be added. A range is never taken back: pods may have its addresses.
package podranges

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/storage"
)

const key = "/skep/podcidrs-added"

// How long to wait after the store did not answer: at first, and at most, doubling.
const (
	retryFirst = 200 * time.Millisecond
	retryMax   = 5 * time.Second
)

// attempts bounds how often an addition is tried again because another came in between.
const attempts = 8

// stored is one range as it is in the store.
type stored struct {
	CIDR     netip.Prefix `json:"cidr"`
	NodeMask int          `json:"nodeMask"`
}

// Ranges are those that were added. Its methods may be called concurrently.
type Ranges struct {
	store  storage.Interface
	synced chan struct{} // closed when the store has been read

	mu       sync.Mutex
	added    []allocator.PodRange // replaced, never changed
	revision int64                // of added
}

// New makes the ranges of a store. There are none before Run has read it.
func New(store storage.Interface) *Ranges {
	return &Ranges{store: store, synced: make(chan struct{})}
}

// Added are the ranges that were added, in that order.
func (r *Ranges) Added() []allocator.PodRange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.added
}

// Run follows the store until ctx ends. While the store does not answer, the last state applies.
func (r *Ranges) Run(ctx context.Context) error {
	wait := backoff.New(retryFirst, retryMax)
	for ctx.Err() == nil {
		err := r.follow(ctx, wait.Reset)
		if ctx.Err() != nil {
			break
		}
		if !wait.Failing() {
			slog.Warn("Watch of added pod ranges failed; the last known ranges stay in use; trying again", "err", err)
		}
		_ = wait.Wait(ctx) // the loop ends with ctx
	}
	return ctx.Err()
}

func (r *Ranges) follow(ctx context.Context, read func()) error {
	kv, revision, err := r.read(ctx)
	if err != nil {
		return err
	}
	if err := r.apply(kv); err != nil {
		return err
	}
	read()
	select {
	case <-r.synced:
	default:
		close(r.synced)
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	for response := range r.store.Watch(watch, key, revision) {
		if response.Err != nil {
			return response.Err
		}
		for _, e := range response.Events {
			if e.Key != key || e.Type == storage.Delete {
				continue // no server deletes it
			}
			if err := r.apply(storage.KeyValue{Key: e.Key, Value: e.Value, ModRevision: e.ModRevision}); err != nil {
				return err
			}
		}
	}
	return errors.New("the watch ended")
}

// read returns the key, empty if there is none, and the store's revision.
func (r *Ranges) read(ctx context.Context) (storage.KeyValue, int64, error) {
	kvs, revision, err := r.store.List(ctx, key)
	if err != nil {
		return storage.KeyValue{}, 0, err
	}
	for _, kv := range kvs {
		if kv.Key == key {
			return kv, revision, nil
		}
	}
	return storage.KeyValue{}, revision, nil
}

// apply takes over a state of the key unless a later one is known.
func (r *Ranges) apply(kv storage.KeyValue) error {
	ranges, err := decode(kv)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if kv.ModRevision > r.revision {
		r.added, r.revision = ranges, kv.ModRevision
	}
	return nil
}

func decode(kv storage.KeyValue) (ranges []allocator.PodRange, err error) {
	if kv.Key == "" {
		return nil, nil
	}
	var list []stored
	if err := json.Unmarshal(kv.Value, &list); err != nil {
		return nil, fmt.Errorf("the key %s of etcd cannot be read: %w", key, err)
	}
	for _, s := range list {
		ranges = append(ranges, allocator.PodRange{Prefix: s.CIDR, NodeMask: s.NodeMask})
	}
	return ranges, nil
}

// WaitForSync waits until the store has been read.
func (r *Ranges) WaitForSync(ctx context.Context) error {
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add adds the range that choose returns, which is called with those that were added before. If choose finds that it is one of them, it returns
// it again.
func (r *Ranges) Add(ctx context.Context, choose func(added []allocator.PodRange) (allocator.PodRange, error)) error {
	for range attempts {
		kv, _, err := r.read(ctx)
		if err != nil {
			return err
		}
		added, err := decode(kv)
		if err != nil {
			return err
		}
		next, err := choose(added)
		if err != nil || slices.Contains(added, next) {
			return err
		}
		added = append(added, next)
		list := make([]stored, len(added))
		for i, a := range added {
			list[i] = stored{CIDR: a.Prefix, NodeMask: a.NodeMask}
		}
		value, err := json.Marshal(list)
		if err != nil {
			return err
		}
		revision, err := r.store.Commit(ctx, []storage.Guard{{Key: key, ModRevision: kv.ModRevision}}, []storage.Op{{Key: key, Value: value}})
		if errors.As(err, new(*storage.ConflictError)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("store the pod range %s: %w", next.Prefix, err)
		}
		return r.apply(storage.KeyValue{Key: key, Value: value, ModRevision: revision}) // a node may join before the watch's event
	}
	return fmt.Errorf("pod ranges are being added by others: try again")
}

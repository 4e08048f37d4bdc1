package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// served are the kinds that a registry serves, with their caches. It is never changed, but replaced as a whole: a reader that holds one
// always sees the same kinds.
type served struct {
	kinds  []*Kind
	byName map[schema.GroupVersionResource]*Kind
	caches map[*Kind]*watchcache.Cache
}

// kindSet is the kinds that a registry serves now, and the functions that follow them.
type kindSet struct {
	store storage.Interface
	now   atomic.Pointer[served]

	mu        sync.Mutex // held while the set changes
	running   context.Context
	caches    sync.WaitGroup
	stops     map[*Kind]context.CancelFunc
	followers map[*func([]*Kind)]struct{}
	failed    chan error // has the error of a cache that ended by itself
}

func newKindSet(store storage.Interface, kinds []*Kind) *kindSet {
	s := &kindSet{
		store: store, stops: map[*Kind]context.CancelFunc{}, followers: map[*func([]*Kind)]struct{}{}, failed: make(chan error, 1),
	}
	first := &served{byName: map[schema.GroupVersionResource]*Kind{}, caches: map[*Kind]*watchcache.Cache{}}
	for _, k := range kinds {
		first.add(k, store)
	}
	s.now.Store(first)
	return s
}

func (s *served) add(k *Kind, store storage.Interface) {
	s.kinds = append(s.kinds, k)
	for _, version := range k.AllVersions() {
		s.byName[version.GroupVersionResource()] = version
	}
	s.caches[k] = watchcache.New(watchcache.Config{Store: store, Prefix: k.Prefix(), Codec: k.codec(), Indexes: k.Indexes})
}

func (s *served) clone() *served {
	return &served{kinds: slices.Clone(s.kinds), byName: maps.Clone(s.byName), caches: maps.Clone(s.caches)}
}

// run keeps the caches of all kinds current until ctx ends, or returns an error when one of them ends before that.
func (s *kindSet) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.mu.Lock()
	s.running = ctx
	for k, c := range s.now.Load().caches {
		s.start(k, c)
	}
	s.mu.Unlock()
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-s.failed:
		stop()
	}
	s.mu.Lock() // no cache starts after this
	defer s.mu.Unlock()
	s.caches.Wait()
	return err
}

// start runs a cache, if the registry runs. The caller holds mu.
func (s *kindSet) start(k *Kind, c *watchcache.Cache) {
	if s.running == nil || s.running.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(s.running)
	s.stops[k] = stop
	s.caches.Go(func() {
		if err := c.Run(ctx); ctx.Err() == nil {
			select {
			case s.failed <- fmt.Errorf("the cache of %s ended: %w", k.Resource, err):
			default: // another failed before
			}
		}
	})
}

// change replaces the set and notifies followers. The caller holds mu.
func (s *kindSet) change(next *served) {
	s.now.Store(next)
	for f := range s.followers {
		(*f)(next.kinds)
	}
}

// Serve adds a kind while the registry runs. Its name and its storage path must not be another kind's.
func (r *Registry) Serve(k *Kind) error {
	s := r.set
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now.Load().clone()
	for _, other := range next.kinds {
		if strings.HasPrefix(other.Prefix(), k.Prefix()) || strings.HasPrefix(k.Prefix(), other.Prefix()) {
			return fmt.Errorf("serve %s: objects of %s are stored in the same place, below %s", k.GroupVersionResource(), other.GroupVersionResource(), other.Prefix())
		}
	}
	for _, version := range k.AllVersions() {
		if next.byName[version.GroupVersionResource()] != nil {
			return fmt.Errorf("serve %s: the name is in use", version.GroupVersionResource())
		}
	}
	next.add(k, s.store)
	s.change(next)
	s.start(k, next.caches[k])
	return nil
}

// Withdraw ends the service of a kind: its watches end, and its objects stay where they are stored.
func (r *Registry) Withdraw(k *Kind) {
	s := r.set
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now.Load().clone()
	cache, ok := next.caches[k]
	if !ok {
		return
	}
	next.kinds = slices.DeleteFunc(next.kinds, func(other *Kind) bool { return other == k })
	for _, version := range k.AllVersions() {
		delete(next.byName, version.GroupVersionResource())
	}
	delete(next.caches, k)
	s.change(next)
	if stop := s.stops[k]; stop != nil {
		stop()
		delete(s.stops, k)
	}
	cache.Close()
}

// Follow calls f with the kinds that are served, now and whenever they change, until stop is called. f must not block, and it
// must not change the kinds.
func (r *Registry) Follow(f func([]*Kind)) (stop func()) {
	s := r.set
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers[&f] = struct{}{}
	f(s.now.Load().kinds)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.followers, &f)
	}
}

// Kinds are those that are served now.
func (r *Registry) Kinds() []*Kind { return r.set.now.Load().kinds }

// Serves says whether a kind is served now.
func (r *Registry) Serves(k *Kind) bool { return r.set.now.Load().caches[k.Stored()] != nil }

// Kind finds a kind by the name that request paths have.
func (r *Registry) Kind(gvr schema.GroupVersionResource) (*Kind, bool) {
	k, ok := r.set.now.Load().byName[gvr]
	return k, ok
}

// withdrawn is the cache of every kind that is not served.
var withdrawn = func() *watchcache.Cache {
	c := watchcache.New(watchcache.Config{})
	c.Close()
	return c
}()

// Cache is the cache of a kind, a closed one if the kind is not served.
func (r *Registry) Cache(k *Kind) *watchcache.Cache {
	if c := r.set.now.Load().caches[k.Stored()]; c != nil {
		return c
	}
	return withdrawn
}

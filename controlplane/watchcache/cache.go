package watchcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/storage"
)

const (
	// treeDegree is the btree's; wide nodes cost less memory, narrow ones less copying.
	treeDegree = 32
	// progressRetry is how long etcd has to answer for its progress before it is asked again.
	progressRetry = 20 * time.Millisecond
	// listRetry is how long to wait after a list that failed, listRetryMax after many in a row.
	listRetry    = 500 * time.Millisecond
	listRetryMax = 5 * time.Second
)

// Config says what a cache holds.
type Config struct {
	Store  storage.Interface
	Prefix string
	Codec  storage.Codec
	// Indexes give the values under which ByIndex finds an object, and by which
	// watches can be selected without looking at each.
	Indexes map[string]func(Resource) []string
	// Window is how many past events are kept at most; 0: DefaultWindow.
	Window int
	// WindowBytes is how much their objects may take in etcd; 0: DefaultWindowBytes.
	WindowBytes int
}

// Cache holds the objects of one kind. Run fills it and keeps it current.
type Cache struct {
	store   storage.Interface
	prefix  string
	codec   storage.Codec
	indexed map[string]func(Resource) []string
	synced  chan struct{}
	closed  chan struct{}

	mu sync.RWMutex
	// tree is ordered by key. It changes only under mu; a snapshot is a clone of it.
	tree *btree.BTreeG[*Object]
	// snapshot is the clone that readers share until the next change, nil after one.
	snapshot *Snapshot
	indexes  map[string]map[string]map[string]*Object // index, value, key
	window   window
	// unreadable are the keys whose values cannot be decoded. The tree has the last state of
	// each that could be decoded, if there was one.
	unreadable map[string]*Unreadable
	// revision is that of etcd up to which everything is in the tree.
	revision int64
	waiters  map[*waiter]struct{}
	// ask wakes askProgress when there is a waiter, answered when the watch has
	// reported progress. Both have room for one.
	ask, answered chan struct{}
	// reread has room for one: it makes Run list again.
	reread   chan struct{}
	watchers watchers
	handlers []func(Event)
	// running is set while Run is, and is what subscriptions run under.
	running context.Context
	group   sync.WaitGroup
}

// New makes a cache; it is empty until Run.
func New(cfg Config) *Cache {
	c := &Cache{
		store:   cfg.Store,
		prefix:  cfg.Prefix,
		codec:   cfg.Codec,
		indexed: cfg.Indexes,
		synced:  make(chan struct{}),
		closed:  make(chan struct{}),
		tree:    newTree(),
		indexes: map[string]map[string]map[string]*Object{},
		window:  newWindow(cfg.Window, cfg.WindowBytes),
		waiters: map[*waiter]struct{}{},

		unreadable: map[string]*Unreadable{},
		reread:     make(chan struct{}, 1),

		ask:      make(chan struct{}, 1),
		answered: make(chan struct{}, 1),
	}
	for name := range cfg.Indexes {
		c.indexes[name] = map[string]map[string]*Object{}
	}
	c.watchers = newWatchers(cfg.Indexes)
	return c
}

func newTree() *btree.BTreeG[*Object] {
	return btree.NewG(treeDegree, func(a, b *Object) bool { return a.Key < b.Key })
}

// Run keeps the cache current until ctx ends. It retries after errors of the store.
func (c *Cache) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	if c.running != nil {
		c.mu.Unlock()
		cancel()
		return fmt.Errorf("cache of %s is already running", c.prefix)
	}
	c.running = ctx
	for _, h := range c.handlers {
		c.startHandler(h)
	}
	c.group.Go(func() { c.askProgress(ctx) })
	c.mu.Unlock()
	defer c.group.Wait()
	defer func() {
		// Under the lock, so that no subscription begins after this.
		c.mu.Lock()
		cancel()
		c.mu.Unlock()
	}()

	wait := backoff.New(listRetry, listRetryMax)
	for ctx.Err() == nil {
		err := c.follow(ctx, func() {
			if wait.Failing() {
				slog.Info("Cache lists from etcd again", "prefix", c.prefix)
			}
			wait.Reset()
		})
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, storage.ErrCompacted) {
			slog.Info("Cache fell behind the history of etcd and lists again", "prefix", c.prefix)
			continue
		}
		if errors.Is(err, errReread) {
			continue
		}
		if !wait.Failing() {
			slog.Warn("Cache cannot list from etcd; it keeps its objects and tries again", "prefix", c.prefix, "err", err)
		}
		_ = wait.Wait(ctx) // the loop ends with ctx
	}
	return ctx.Err()
}

// follow lists once, calls listed, then applies changes for as long as the watch lasts.
func (c *Cache) follow(ctx context.Context, listed func()) error {
	kvs, revision, err := c.store.List(ctx, c.prefix)
	if err != nil {
		return err
	}
	c.replace(c.decodeAll(kvs), revision)
	listed()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	responses := c.store.Watch(ctx, c.prefix, revision)
	for {
		select {
		case resp, ok := <-responses:
			if !ok {
				return errors.New("watch ended")
			}
			if resp.Err != nil {
				return resp.Err
			}
			c.apply(c.decodeEvents(resp.Events), resp.Revision)
			if len(resp.Events) == 0 {
				signal(c.answered)
			}
		case <-c.reread:
			return errReread
		}
	}
}

// WaitForSync waits until the first list has been stored.
func (c *Cache) WaitForSync(ctx context.Context) error {
	select {
	case <-c.closed:
		return ErrClosed
	default:
	}
	select {
	case <-c.synced:
		return nil
	case <-c.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Revision is the revision up to which the cache has everything.
func (c *Cache) Revision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.revision
}

// waiter is a reader that waits for a revision; done is closed when the cache has it.
type waiter struct {
	revision int64
	done     chan struct{}
}

// WaitUntil waits until the cache has everything up to revision. A revision in
// which nothing below the prefix changed is reached too, by asking etcd how far
// the watch is.
func (c *Cache) WaitUntil(ctx context.Context, revision int64) error {
	if err := c.WaitForSync(ctx); err != nil {
		return err
	}
	c.mu.RLock()
	there := c.revision >= revision
	c.mu.RUnlock()
	if there {
		return nil
	}
	w := &waiter{revision: revision, done: make(chan struct{})}
	c.mu.Lock()
	if c.revision >= revision {
		c.mu.Unlock()
		return nil
	}
	c.waiters[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiters, w)
		c.mu.Unlock()
	}()
	signal(c.ask)
	return c.await(ctx, w.done)
}

// advance sets the revision and wakes the readers that wait for it. The caller holds mu.
func (c *Cache) advance(revision int64) {
	if revision <= c.revision {
		return
	}
	c.revision = revision
	if c.snapshot != nil {
		c.snapshot = &Snapshot{Revision: revision, tree: c.snapshot.tree}
	}
	for w := range c.waiters {
		if w.revision <= revision {
			close(w.done)
			delete(c.waiters, w)
		}
	}
}

package watchcache

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/btree"
)

// GoneError says that a revision is no longer in the window.
type GoneError struct{ Revision, Oldest int64 }

func (e *GoneError) Error() string {
	return fmt.Sprintf("too old resource version: %d (%d)", e.Revision, e.Oldest)
}

// Snapshot is the state of a kind at one revision. It never changes.
type Snapshot struct {
	Revision int64
	tree     *btree.BTreeG[*Object]
}

// Len is the number of objects.
func (s *Snapshot) Len() int { return s.tree.Len() }

// Get finds the object with a key.
func (s *Snapshot) Get(key string) (*Object, bool) { return s.tree.Get(&Object{Key: key}) }

// Ascend calls visit for the objects whose keys begin with prefix and are not
// before from, in order, until it returns false.
func (s *Snapshot) Ascend(prefix, from string, visit func(*Object) bool) {
	s.tree.AscendGreaterOrEqual(&Object{Key: max(prefix, from)}, func(o *Object) bool {
		return strings.HasPrefix(o.Key, prefix) && visit(o)
	})
}

// Get finds the object with a key in the current state.
func (c *Cache) Get(key string) (*Object, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tree.Get(&Object{Key: key})
}

// Len is the number of objects in the current state.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tree.Len()
}

// Snapshot is the current state.
func (c *Cache) Snapshot() *Snapshot {
	c.mu.RLock()
	s := c.snapshot
	c.mu.RUnlock()
	if s != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current()
}

// current is Snapshot for a caller that holds mu.
func (c *Cache) current() *Snapshot {
	if c.snapshot == nil {
		c.snapshot = &Snapshot{Revision: c.revision, tree: c.tree.Clone()}
	}
	return c.snapshot
}

// SnapshotAt is the state at a revision that the cache has reached, or a
// *GoneError. It is found by undoing the events since.
func (c *Cache) SnapshotAt(revision int64) (*Snapshot, error) {
	c.mu.Lock()
	current := c.current()
	events, ok := c.window.after(revision)
	low := c.window.low
	// Clone changes the snapshot's own bookkeeping, so it happens under the lock;
	// what is done to the clone does not.
	var tree *btree.BTreeG[*Object]
	if len(events) > 0 {
		tree = current.tree.Clone()
	}
	c.mu.Unlock()
	if !ok {
		return nil, &GoneError{Revision: revision, Oldest: low}
	}
	if tree == nil {
		return &Snapshot{Revision: revision, tree: current.tree}, nil
	}
	for _, ev := range slices.Backward(events) {
		if ev.Previous == nil {
			tree.Delete(ev.Object)
		} else {
			tree.ReplaceOrInsert(ev.Previous)
		}
	}
	return &Snapshot{Revision: revision, tree: tree}, nil
}

// ByIndex returns the objects that an index has under value, in order of their keys.
func (c *Cache) ByIndex(index, value string) []*Object {
	objects, _ := c.IndexAt(index, value)
	return objects
}

// IndexAt is ByIndex with the revision at which it was so.
func (c *Cache) IndexAt(index, value string) ([]*Object, int64) {
	c.mu.RLock()
	objects, revision := sorted(c.indexes[index][value]), c.revision
	c.mu.RUnlock()
	return objects, revision
}

func sorted(byKey map[string]*Object) []*Object {
	return slices.SortedFunc(maps.Values(byKey), func(a, b *Object) int { return cmp.Compare(a.Key, b.Key) })
}

package watchcache

import (
	"log/slog"
	"slices"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/storage"
)

// change is a decoded storage event; object is nil for a deletion.
type change struct {
	key      string
	revision int64
	object   *Object
}

func (c *Cache) decode(key string, value []byte, revision int64) *Object {
	decoded, err := storage.Decode(value, revision)
	if err == nil {
		if resource, ok := decoded.(Resource); ok {
			o := NewObject(key, revision, resource)
			o.size = len(value)
			return o
		}
	}
	// One bad value must not take the kind down: it is as if the object were not there.
	slog.Error("stored object is unreadable and left out", "key", key, "revision", revision, "error", err)
	return nil
}

func (c *Cache) decodeAll(kvs []storage.KeyValue) []*Object {
	objects := make([]*Object, 0, len(kvs))
	for _, kv := range kvs {
		if o := c.decode(kv.Key, kv.Value, kv.ModRevision); o != nil {
			objects = append(objects, o)
		}
	}
	return objects
}

func (c *Cache) decodeEvents(events []storage.Event) []change {
	changes := make([]change, len(events))
	for i, ev := range events {
		changes[i] = change{key: ev.Key, revision: ev.ModRevision}
		if ev.Type == storage.Put {
			changes[i].object = c.decode(ev.Key, ev.Value, ev.ModRevision)
		}
	}
	return changes
}

// apply brings changes in, in order, and hands them to the watchers.
func (c *Cache) apply(changes []change, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		if ev, ok := c.put(ch); ok {
			c.window.add(ev)
			c.watchers.dispatch(ev)
		}
	}
	c.advance(revision)
}

// put brings one change into the tree and the indexes. The caller holds mu.
func (c *Cache) put(ch change) (Event, bool) {
	c.snapshot = nil
	if ch.object == nil {
		old, ok := c.tree.Delete(&Object{Key: ch.key})
		if !ok {
			return Event{}, false
		}
		c.index(old, nil)
		return Event{Type: watch.Deleted, Object: old.at(ch.revision), Previous: old, Revision: ch.revision}, true
	}
	old, replaced := c.tree.ReplaceOrInsert(ch.object)
	c.index(old, ch.object)
	if !replaced {
		return Event{Type: watch.Added, Object: ch.object, Revision: ch.revision}, true
	}
	return Event{Type: watch.Modified, Object: ch.object, Previous: old, Revision: ch.revision, left: &left{}}, true
}

// index replaces old by obj in every index; either may be nil.
func (c *Cache) index(old, obj *Object) {
	for name, values := range c.indexed {
		index := c.indexes[name]
		if old != nil {
			for _, v := range values(old.value) {
				delete(index[v], old.Key)
				if len(index[v]) == 0 {
					delete(index, v)
				}
			}
		}
		if obj != nil {
			for _, v := range values(obj.value) {
				if index[v] == nil {
					index[v] = map[string]*Object{}
				}
				index[v][obj.Key] = obj
			}
		}
	}
}

// replace brings in a whole list. Watchers see the difference, in order of
// revisions; what happened in between is lost, so nobody can resume from before it.
func (c *Cache) replace(objects []*Object, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.difference(objects, revision) {
		if ev, ok := c.put(ch); ok {
			c.watchers.dispatch(ev)
		}
	}
	c.window.reset(revision)
	c.advance(revision)
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
}

func (c *Cache) difference(objects []*Object, revision int64) []change {
	listed := make(map[string]bool, len(objects))
	var changes []change
	for _, o := range objects {
		listed[o.Key] = true
		if old, ok := c.tree.Get(o); !ok || old.Revision != o.Revision {
			changes = append(changes, change{key: o.Key, revision: o.Revision, object: o})
		}
	}
	c.tree.Ascend(func(o *Object) bool {
		if !listed[o.Key] {
			changes = append(changes, change{key: o.Key, revision: revision})
		}
		return true
	})
	slices.SortStableFunc(changes, func(a, b change) int { return int(a.revision - b.revision) })
	return changes
}

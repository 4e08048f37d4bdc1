package watchcache

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/storage"
)

// change is a decoded storage event. Without an object it is a deletion, or with
// err a value that cannot be decoded.
type change struct {
	key      string
	revision int64
	object   *Object
	err      error
}

// decode makes a change from a value, unless the store could not read it.
func (c *Cache) decode(key string, value []byte, revision int64, err error) change {
	if err != nil {
		return change{key: key, revision: revision, err: err}
	}
	decoded, err := c.codec.Decode(value, revision)
	if err != nil {
		return change{key: key, revision: revision, err: err}
	}
	resource, ok := decoded.(Resource)
	if !ok {
		return change{key: key, revision: revision, err: fmt.Errorf("object not decodable revision=%d: %T is not an API object", revision, decoded)}
	}
	o := NewObject(key, revision, resource)
	o.size = len(value)
	return change{key: key, revision: revision, object: o}
}

func (c *Cache) decodeAll(kvs []storage.KeyValue) []change {
	objects := make([]change, len(kvs))
	for i, kv := range kvs {
		objects[i] = c.decode(kv.Key, kv.Value, kv.ModRevision, kv.Err)
	}
	return objects
}

func (c *Cache) decodeEvents(events []storage.Event) []change {
	changes := make([]change, len(events))
	for i, ev := range events {
		if ev.Type == storage.Put {
			changes[i] = c.decode(ev.Key, ev.Value, ev.ModRevision, ev.Err)
		} else {
			changes[i] = change{key: ev.Key, revision: ev.ModRevision}
		}
	}
	return changes
}

// apply stores changes in the cache, in order, and sends them to the watchers.
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

// put stores one change in the tree and the indexes. A value that cannot be decoded
// leaves the last state in place. The caller holds mu.
func (c *Cache) put(ch change) (Event, bool) {
	if ch.err != nil {
		c.keep(ch)
		return Event{}, false
	}
	c.forget(ch)
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
	return Event{Type: watch.Modified, Object: ch.object, Previous: old, Revision: ch.revision, deleted: &deletedState{}}, true
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

// replace stores a whole list. Watchers see the difference, in order of revisions; the
// events in between are lost, so no watch can resume from before the list.
func (c *Cache) replace(listed []change, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.difference(listed, revision) {
		if ev, ok := c.put(ch); ok {
			if ev.Revision <= c.revision {
				// A value has become readable without a write: its revision is below those that watches have reached.
				ev.Revision, ev.relisted = c.revision, true
			}
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

func (c *Cache) difference(listed []change, revision int64) []change {
	there := make(map[string]bool, len(listed))
	var changes []change
	for _, ch := range listed {
		there[ch.key] = true
		if ch.err == nil {
			if old, ok := c.tree.Get(ch.object); ok && old.Revision == ch.revision {
				continue
			}
		}
		changes = append(changes, ch)
	}
	missing := func(key string) {
		if !there[key] {
			there[key] = true
			changes = append(changes, change{key: key, revision: revision})
		}
	}
	c.tree.Ascend(func(o *Object) bool {
		missing(o.Key)
		return true
	})
	for key := range c.unreadable {
		missing(key)
	}
	slices.SortStableFunc(changes, func(a, b change) int { return int(a.revision - b.revision) })
	return changes
}

package controller

import (
	"sync"

	"github.com/skep-io/skep/controlplane/resource"
)

// View holds the objects of one kind, grouped. Its answers include the loop's
// own writes, also those that the cache has not delivered yet: a loop that reads
// its view never acts twice on the same state.
type View[T resource.Object] struct {
	groups func(T) []Key

	mu        sync.Mutex
	delivered int64
	known     map[Key]T
	grouped   map[Key]map[string]T // by group, by name
}

// NewView makes a view in which groups returns the groups of an object. They must be of
// the object's own namespace.
func NewView[T resource.Object](groups func(T) []Key) *View[T] {
	return &View[T]{groups: groups, known: map[Key]T{}, grouped: map[Key]map[string]T{}}
}

// Deliver takes over a change from the cache; one of old and cur may be the zero value.
// changed is false for the loop's own writes, which the view already has.
func (v *View[T]) Deliver(old, cur T, deleted bool, revision int64) (changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.delivered = max(v.delivered, revision)
	if deleted {
		v.remove(KeyOf(old), revision)
		return true
	}
	known, ok := v.known[KeyOf(cur)]
	v.set(cur)
	return !ok || Revision(known) < Revision(cur)
}

// Get returns one object.
func (v *View[T]) Get(key Key) (obj T, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	obj, ok = v.known[key]
	return obj, ok
}

// Wrote takes over the result of the loop's own write. If its revision has been delivered
// already, the view is at least as new.
func (v *View[T]) Wrote(obj T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if Revision(obj) > v.delivered {
		v.set(obj)
	}
}

// Group returns the objects of a group, in no order.
func (v *View[T]) Group(group Key) []T {
	v.mu.Lock()
	defer v.mu.Unlock()
	members := v.grouped[group]
	if len(members) == 0 {
		return nil
	}
	list := make([]T, 0, len(members))
	for _, obj := range members {
		list = append(list, obj)
	}
	return list
}

// Smallest returns the objects of the group that has the fewest.
func (v *View[T]) Smallest(groups []Key) []T {
	if len(groups) == 0 {
		return nil
	}
	v.mu.Lock()
	least := groups[0]
	for _, g := range groups[1:] {
		if len(v.grouped[g]) < len(v.grouped[least]) {
			least = g
		}
	}
	v.mu.Unlock()
	return v.Group(least)
}

// set replaces the state of an object, unless that is newer.
func (v *View[T]) set(obj T) {
	key, revision := KeyOf(obj), Revision(obj)
	if known, ok := v.known[key]; ok && Revision(known) > revision {
		return
	}
	v.remove(key, revision)
	v.known[key] = obj
	for _, g := range v.groups(obj) {
		members := v.grouped[g]
		if members == nil {
			members = map[string]T{}
			v.grouped[g] = members
		}
		members[key.Name] = obj
	}
}

// remove removes an object, unless its state is newer than revision: then it is another of the same name.
func (v *View[T]) remove(key Key, revision int64) {
	known, ok := v.known[key]
	if !ok || Revision(known) > revision {
		return
	}
	delete(v.known, key)
	for _, g := range v.groups(known) {
		members := v.grouped[g]
		delete(members, key.Name)
		if len(members) == 0 {
			delete(v.grouped, g)
		}
	}
}

package watchcache

import (
	"sync"

	"k8s.io/apimachinery/pkg/watch"
)

// Event is one change of one object, or a bookmark.
type Event struct {
	// Type is Added, Modified, Deleted or Bookmark.
	Type watch.EventType
	// Object is the state after the change; for Deleted the last state, with the
	// revision of the deletion. It is nil for a bookmark.
	Object *Object
	// Previous is the state before the change, nil if there was none.
	Previous *Object
	// Revision is that of the change; for a bookmark, up to which all has been delivered.
	Revision int64
	// InitialEventsEnd marks the bookmark that closes the initial events of a watch that asked for them.
	InitialEventsEnd bool

	// relisted marks a value that became readable without a write. It is for every
	// watch that it was queued at, whatever its revision.
	relisted bool
	// deleted is shared by all watchers whose filter the object no longer meets after this change.
	deleted *deletedState
}

// size is what an event keeps in memory, counted in bytes of etcd: the state after the change and the one before it.
func (e *Event) size() int {
	size := 0
	if e.Object != nil {
		size += e.Object.size
	}
	if e.Previous != nil {
		size += e.Previous.size
	}
	return size
}

// deletedState is the previous state under the revision of the change, made when the first watcher needs it.
type deletedState struct {
	once   sync.Once
	object *Object
}

// seenThrough is the event as a watch with this filter has it: an object that
// starts to match is Added, one that no longer does is Deleted. ok is false if the event
// does not concern the watch.
func (e Event) seenThrough(filter func(*Object) bool) (Event, bool) {
	if filter == nil {
		return e, true
	}
	if e.Type != watch.Modified {
		return e, filter(e.Object)
	}
	switch now, before := filter(e.Object), filter(e.Previous); {
	case now && before:
		return e, true
	case now:
		return Event{Type: watch.Added, Object: e.Object, Revision: e.Revision, relisted: e.relisted}, true
	case before:
		e.deleted.once.Do(func() { e.deleted.object = e.Previous.at(e.Revision) })
		return Event{Type: watch.Deleted, Object: e.deleted.object, Previous: e.Previous, Revision: e.Revision}, true
	}
	return Event{}, false
}

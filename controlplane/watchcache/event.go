package watchcache

import "k8s.io/apimachinery/pkg/watch"

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
}

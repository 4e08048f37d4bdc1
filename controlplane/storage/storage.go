// Package storage is the only way from Skep to etcd. It owns the layout of the
// keys, the form of the values and the transactions, all as kube-apiserver writes them,
// so that either can read what the other wrote. It has no rules of kinds, no caches and
// no HTTP, and it never runs an etcd server.
package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxOps is the largest number of guards that one Commit takes: the limit that
// etcd has by default, less one for a fence (WithFence). It takes as many ops, and more with fewer guards: with at most
// maxParts guards, maxParts times (MaxOps - maxParts) ops.
const MaxOps = txnOps - 1

// txnOps is etcd's own limit of a transaction's conditions, and of its operations.
const txnOps = 128

var (
	// ErrNotFound says that a key has no value.
	ErrNotFound = errors.New("key not found")
	// ErrCompacted says that a watch asked for a revision whose history etcd no longer has.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrTooLarge says that a transaction is larger than etcd accepts.
	ErrTooLarge = errors.New("request is too large")
)

// KeyValue is one value and the revisions that made it.
type KeyValue struct {
	Key                         string
	Value                       []byte
	CreateRevision, ModRevision int64
	// Err says why the stored value cannot be read; Value is nil then.
	Err error
	// Stale says that the same object would be encrypted differently now.
	Stale bool
}

// Guard is a condition of a Commit: Key's last change was at ModRevision; 0 means that it must not exist.
// With Below, Key is a prefix and no key below it was put after ModRevision;
// it does not detect deletions.
type Guard struct {
	Key         string
	ModRevision int64
	Below       bool
}

// Op is one change of a Commit: a put, or a delete. A put with a TTL expires
// no earlier than the TTL says, and at most a minute or a twentieth of the TTL
// later, whichever is less.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	TTL    time.Duration
}

// ConflictError names the keys whose guards did not hold. Nothing was written.
type ConflictError struct{ Keys []string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("changed since they were read: %s", strings.Join(e.Keys, ", "))
}

// EventType distinguishes a put from a delete.
type EventType uint8

// The two things that can happen to a key.
const (
	Put EventType = iota
	Delete
)

// Event is one change to one key. Value is nil for a Delete; Created distinguishes a
// put that made the key from one that replaced its value.
type Event struct {
	Key         string
	Value       []byte
	ModRevision int64
	Type        EventType
	Created     bool
	// Err says why the value of a Put cannot be read; Value is nil then.
	Err error
}

// WatchResponse carries the events of one or more whole revisions, in order,
// and Revision: every change up to it has been delivered. A response without
// events only reports progress. No response follows one with Err; after ErrCompacted the
// caller lists again.
type WatchResponse struct {
	Events   []Event
	Revision int64
	Err      error
}

// Interface is what the control plane needs of a store.
type Interface interface {
	// Get reads one key, linearizable, or returns ErrNotFound.
	Get(ctx context.Context, key string) (KeyValue, error)
	// List reads all keys below prefix, in order, as they were at the returned revision. It is linearizable.
	List(ctx context.Context, prefix string) (kvs []KeyValue, revision int64, err error)
	// Commit applies all ops if all guards hold, and returns the revision that
	// made them; otherwise it applies none and returns a *ConflictError. An error
	// of another type leaves open whether the ops were applied.
	Commit(ctx context.Context, guards []Guard, ops []Op) (revision int64, err error)
	// Watch delivers the changes below prefix that came after the revision, in
	// order and without gaps, over lost connections too. The channel is closed when
	// ctx ends or after a response with Err.
	Watch(ctx context.Context, prefix string, after int64) <-chan WatchResponse
	// RequestProgress makes the running watches of prefix report how far they are,
	// without waiting for it. A store that is busy may drop the request. Callers
	// keep at most one request per prefix under way.
	RequestProgress(ctx context.Context, prefix string) error
	// Revision is the store's current revision, linearizable.
	Revision(ctx context.Context) (int64, error)
}

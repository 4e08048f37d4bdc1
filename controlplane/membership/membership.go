// Package membership decides which node certificates count. A host that joins gets a membership, whose number its certificates carry;
// deleting the Node object ends the membership in the same transaction, and revokes every certificate that was issued for it. The end is
// recorded, which distinguishes a removed node from one that the store has never had.
//
// It owns the keys below allocator.MemberPrefix and keeps a copy of them in memory, which requests are compared with. It
// never signs anything and does not decide who may join.
package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// ErrTaken says that a node of the name exists: a host may take its place only with the node's own certificate or with a token for that
// node.
var ErrTaken = errors.New("a node of this name exists")

// How long to wait after the store did not answer: at first, and at most, doubling.
const (
	retryFirst = 200 * time.Millisecond
	retryMax   = 5 * time.Second
)

// Standing says whether a node's certificate counts, and why not.
type Standing uint8

const (
	// Unknown is a certificate of whose membership the store has no record: the store was restored from before the node joined.
	Unknown Standing = iota
	// Removed is one whose membership was ended: the node was deleted, or another host has its name.
	Removed
	// Counts is one of the present membership.
	Counts
)

// Members are all memberships. Its methods may be called concurrently.
type Members struct {
	store  storage.Interface
	synced chan struct{} // closed when the stored memberships are known

	mu    sync.Mutex
	known map[string]known
	ended map[string]known
	// requests are the running requests of nodes. Each is cancelled when its membership ends.
	requests map[string]map[*request]struct{}
}

// known is a membership, or the record of ended ones, at a revision.
type known struct {
	allocator.Member
	revision int64
}

type request struct {
	id     string
	cancel context.CancelFunc
}

// New makes memberships over a store. No certificate counts before Run has read it.
func New(store storage.Interface) *Members {
	return &Members{store: store, synced: make(chan struct{}), known: map[string]known{}, ended: map[string]known{}, requests: map[string]map[*request]struct{}{}}
}

// Run follows the store until ctx ends. While the store does not answer, the last state applies.
func (m *Members) Run(ctx context.Context) error {
	wait := backoff.New(retryFirst, retryMax)
	for ctx.Err() == nil {
		err := m.follow(ctx, func() {
			if wait.Failing() {
				slog.Info("Memberships of nodes are watched again")
			}
			wait.Reset()
		})
		if ctx.Err() != nil {
			break
		}
		if !wait.Failing() {
			slog.Warn("Memberships of nodes cannot be watched; the last known ones stay valid; trying again", "err", err)
		}
		_ = wait.Wait(ctx) // the loop ends with ctx
	}
	return ctx.Err()
}

// follow reads the store, calls read, and applies changes for as long as the watch lasts.
func (m *Members) follow(ctx context.Context, read func()) error {
	kvs, revision, err := m.store.List(ctx, allocator.MemberPrefix)
	if err != nil {
		return err
	}
	m.replace(kvs, revision)
	read()
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	for response := range m.store.Watch(watch, allocator.MemberPrefix, revision) {
		if response.Err != nil {
			return response.Err
		}
		for _, event := range response.Events {
			m.apply(event.Key, event.Value, event.ModRevision, event.Type == storage.Delete)
		}
	}
	return errors.New("the watch ended")
}

func (m *Members) replace(kvs []storage.KeyValue, revision int64) {
	stored := map[string]bool{}
	for _, kv := range kvs {
		stored[kv.Key] = true
		m.apply(kv.Key, kv.Value, kv.ModRevision, false)
	}
	m.mu.Lock()
	for name, k := range m.known {
		if !stored[allocator.MemberKey(name)] && k.revision <= revision {
			delete(m.known, name)
			m.endRequests(name)
		}
	}
	for name, k := range m.ended {
		if !stored[allocator.EndedKey(name)] && k.revision <= revision {
			delete(m.ended, name)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.synced:
	default:
		close(m.synced)
	}
}

// apply applies a change unless a later one has been applied.
func (m *Members) apply(key string, value []byte, revision int64, gone bool) {
	name, ended := strings.CutPrefix(key, allocator.EndedPrefix)
	if !ended {
		name = strings.TrimPrefix(key, allocator.MemberPrefix)
	}
	var stored allocator.Member
	if !gone {
		if err := json.Unmarshal(value, &stored); err != nil || stored.ID == "" {
			slog.Error("A node's membership cannot be read: its certificate is refused", "key", key, "err", err)
			gone = true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	into := m.known
	if ended {
		into = m.ended
	}
	switch {
	case into[name].revision > revision:
		return
	case gone:
		// The revision stays, so that an earlier write of a join does not come back when the join applies it late.
		into[name] = known{revision: revision}
	default:
		into[name] = known{stored, revision}
	}
	m.endRequests(name)
}

// endRequests cancels the node's requests whose membership is not the current one. The caller holds mu.
func (m *Members) endRequests(name string) {
	for r := range m.requests[name] {
		if !m.counts(name, r.id) {
			r.cancel()
		}
	}
}

// counts says whether a certificate of the node with that number counts. The caller holds mu.
func (m *Members) counts(name, id string) bool {
	k := m.known[name]
	return k.Covers(id)
}

// WaitForSync waits until the stored memberships have been read.
func (m *Members) WaitForSync(ctx context.Context) error {
	select {
	case <-m.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Enter returns the standing of a certificate of the node with that number. If it counts, cancel is called when it no longer does, unless
// leave was called before.
func (m *Members) Enter(name, id string, cancel context.CancelFunc) (leave func(), standing Standing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.counts(name, id) {
		if k := m.ended[name]; k.Covers(id) {
			return nil, Removed
		}
		return nil, Unknown
	}
	r := &request{id: id, cancel: cancel}
	if m.requests[name] == nil {
		m.requests[name] = map[*request]struct{}{}
	}
	m.requests[name][r] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.requests[name], r)
		if len(m.requests[name]) == 0 {
			delete(m.requests, name)
		}
	}, Counts
}

// Number returns the number that new certificates of a member carry.
func (m *Members) Number(name string) (id string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id = m.known[name].ID
	return id, id != ""
}

// Join begins a membership and ends the one before. If a Node of the name exists, it does so only with replace, and returns ErrTaken
// without.
func (m *Members) Join(ctx context.Context, name string, replace bool) (id string, err error) {
	for range joinAttempts {
		if id, err = m.tryJoin(ctx, name, replace); !errors.As(err, new(*storage.ConflictError)) {
			return id, err
		}
	}
	return "", err
}

// joinAttempts bounds how often a join is tried again because another of the same name came in between.
const joinAttempts = 8

func (m *Members) tryJoin(ctx context.Context, name string, replace bool) (id string, err error) {
	key := allocator.MemberKey(name)
	fresh, err := newMember()
	if err != nil {
		return "", err
	}
	value, err := json.Marshal(fresh)
	if err != nil {
		return "", err
	}
	var tx resource.Tx
	if err := allocator.EndMember(ctx, m.store, &tx, name); err != nil {
		return "", err
	}
	if !replace {
		tx.Guards = append(tx.Guards, storage.Guard{Key: nodeKey(name)})
	}
	ops := append(tx.Ops, storage.Op{Key: key, Value: value})
	revision, err := m.store.Commit(ctx, tx.Guards, ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) && slices.Contains(conflict.Keys, nodeKey(name)) {
		return "", ErrTaken
	}
	if err != nil {
		return "", fmt.Errorf("store the membership of node %s: %w", name, err)
	}
	for _, op := range ops {
		m.apply(op.Key, op.Value, revision, false) // the node's next request may come before the watch's event
	}
	return fresh.ID, nil
}

func newMember() (allocator.Member, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return allocator.Member{}, fmt.Errorf("make a membership: %w", err)
	}
	return allocator.Member{ID: hex.EncodeToString(id)}, nil
}

func nodeKey(name string) string { return kinds.Nodes.Key("", name) }

// recordedKey exists once the nodes from before memberships were introduced have got one.
const recordedKey = "/skep/members-recorded"

// Record gives every node from before memberships were introduced a membership, so that its certificate counts. It does so once in a
// cluster's life: a node that is made by hand later has no certificate.
func Record(ctx context.Context, store storage.Interface) error {
	_, err := store.Get(ctx, recordedKey)
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	prefix := nodeKey("")
	kvs, _, err := store.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		m, err := newMember()
		if err != nil {
			return err
		}
		m.Unnumbered = true
		value, err := json.Marshal(m)
		if err != nil {
			return err
		}
		key := allocator.MemberKey(strings.TrimPrefix(kv.Key, prefix))
		_, err = store.Commit(ctx, []storage.Guard{{Key: key}, {Key: kv.Key, ModRevision: kv.ModRevision}}, []storage.Op{{Key: key, Value: value}})
		var conflict *storage.ConflictError
		if errors.As(err, &conflict) {
			if len(conflict.Keys) == 1 && conflict.Keys[0] == key {
				continue // it has one
			}
			return Record(ctx, store) // the node was changed or deleted
		}
		if err != nil {
			return err
		}
	}
	_, err = store.Commit(ctx, nil, []storage.Op{{Key: recordedKey, Value: []byte("1")}})
	return err
}

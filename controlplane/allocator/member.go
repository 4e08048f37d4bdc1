package allocator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// MemberPrefix is the prefix of the keys that say which certificates of a node count: the key ends in the node's name. A node's key is
// deleted with its Node object, in one transaction, which records that at EndedKey.
const MemberPrefix = "/skep/members/"

// EndedPrefix is the prefix of the records of memberships that have ended, within MemberPrefix, so that one watch sees both in order. No
// node's name holds a slash.
const EndedPrefix = MemberPrefix + "ended/"

// MemberKey is the key of a node's membership.
func MemberKey(node string) string { return MemberPrefix + node }

// EndedKey is the key of the record of a node's earlier memberships.
func EndedKey(node string) string { return EndedPrefix + node }

// Member is a node's stored membership, and at EndedKey the one that ended last.
type Member struct {
	// ID is the number that certificates of this membership carry.
	ID string `json:"id"`
	// Unnumbered is set where certificates without a number count too: those from before numbers were introduced.
	Unnumbered bool `json:"unnumbered,omitempty"`
	// Earlier are the numbers that ended before ID did, the newest first. Only ended memberships have any.
	Earlier []string `json:"earlier,omitempty"`
}

// endedTTL is how long the record of an ended membership is kept: longer than its certificates are valid.
const endedTTL = 366 * 24 * time.Hour

// maxEarlier bounds how many earlier numbers of one name are kept.
const maxEarlier = 16

// Covers says whether the membership, or one of the earlier ones, is that of a certificate with that number.
func (m *Member) Covers(id string) bool {
	return id != "" && (id == m.ID || slices.Contains(m.Earlier, id)) || id == "" && m.Unnumbered
}

// EndMember adds to tx the record that the node's present membership has ended, if it has one. Without a record a certificate does not
// count as revoked: it may be newer than the snapshot that the store was restored from.
func EndMember(ctx context.Context, store storage.Interface, tx *resource.Tx, node string) error {
	var present, before Member
	revision, err := getMember(ctx, store, MemberKey(node), &present)
	if err != nil {
		return err
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: MemberKey(node), ModRevision: revision})
	if present.ID == "" {
		return nil // none, or one that nobody can have a certificate of
	}
	revision, err = getMember(ctx, store, EndedKey(node), &before)
	if err != nil {
		return err
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: EndedKey(node), ModRevision: revision})
	present.Unnumbered = present.Unnumbered || before.Unnumbered
	if before.ID != "" {
		present.Earlier = append([]string{before.ID}, before.Earlier...)
		present.Earlier = present.Earlier[:min(len(present.Earlier), maxEarlier)]
	}
	value, err := json.Marshal(present)
	if err != nil {
		return fmt.Errorf("record the end of node %s's membership: %w", node, err)
	}
	tx.Ops = append(tx.Ops, storage.Op{Key: EndedKey(node), Value: value, TTL: endedTTL})
	return nil
}

// getMember reads a record; one that cannot be decoded counts as missing, since its certificates do not count either.
func getMember(ctx context.Context, store storage.Interface, key string, into *Member) (revision int64, err error) {
	kv, err := store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	if json.Unmarshal(kv.Value, into) != nil {
		*into = Member{}
	}
	return kv.ModRevision, nil
}

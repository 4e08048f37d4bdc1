package witness

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Ring is the nodes that have a key, in the order of their names' hashes. A node is watched by the next Watchers nodes of the ring that
// are alive, so each watches as many in a cluster of any size, and one that joins or leaves changes few neighbours' duties.
type Ring struct {
	order []place
	at    map[string]int
}

type place struct {
	hash  uint64
	name  string
	alive bool
}

// NewRing computes the ring, whatever the order of the nodes.
func NewRing(nodes []Node) *Ring {
	r := &Ring{at: make(map[string]int, len(nodes))}
	for _, n := range nodes {
		if len(n.Key) == 0 {
			continue
		}
		sum := sha256.Sum256([]byte(n.Name))
		r.order = append(r.order, place{binary.BigEndian.Uint64(sum[:]), n.Name, n.Alive})
	}
	slices.SortFunc(r.order, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
	})
	for i, p := range r.order {
		r.at[p.name] = i
	}
	return r
}

// Watchers returns the nodes that watch the subject: Watchers of them if that many others are alive. Nil: it is not in the ring.
func (r *Ring) Watchers(subject string) (watchers []string) {
	at, ok := r.at[subject]
	if !ok {
		return nil
	}
	for step := 1; step < len(r.order) && len(watchers) < Watchers; step++ {
		if p := r.order[(at+step)%len(r.order)]; p.alive {
			watchers = append(watchers, p.name)
		}
	}
	return watchers
}

// Watched returns the nodes that this one watches: Watchers alive ones, and those between them that are not.
func (r *Ring) Watched(watcher string) (subjects []string) {
	at, ok := r.at[watcher]
	if !ok || !r.order[at].alive {
		return nil
	}
	alive := 0
	for step := 1; step < len(r.order) && alive < Watchers; step++ {
		p := r.order[(at-step+len(r.order))%len(r.order)]
		subjects = append(subjects, p.name)
		if p.alive {
			alive++
		}
	}
	return subjects
}

// IsWatcher says whether the ring makes the one node a watcher of the other.
func (r *Ring) IsWatcher(watcher, subject string) bool {
	return slices.Contains(r.Watchers(subject), watcher)
}

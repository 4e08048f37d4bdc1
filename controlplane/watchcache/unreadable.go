package watchcache

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	unreadableTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "skep_storage_decode_errors_total",
		Help: "Values read from etcd that could not be decoded, by the prefix of their keys.",
	}, []string{"prefix"})
	unreadableObjects = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skep_storage_unreadable_objects",
		Help: "Stored objects that cannot be decoded now, by the prefix of their keys.",
	}, []string{"prefix"})
)

// errReread ends a watch so that Run lists again.
var errReread = errors.New("values are to be read again")

// Unreadable is a stored object whose value cannot be decoded. It is not deleted: readers
// that have an earlier state must go on with that.
type Unreadable struct {
	Key      string
	Revision int64
	Err      error
	// Kept says that an earlier state could be decoded: readers of the cache have
	// that one. Without it they do not see the object at all.
	Kept bool
}

// keep records a value that cannot be decoded, and leaves the last state in place. The caller holds mu.
func (c *Cache) keep(ch change) {
	old, noted := c.unreadable[ch.key]
	if noted && old.Revision == ch.revision {
		old.Err = ch.err
		return
	}
	_, kept := c.tree.Get(&Object{Key: ch.key})
	c.unreadable[ch.key] = &Unreadable{Key: ch.key, Revision: ch.revision, Err: ch.err, Kept: kept}
	unreadableTotal.WithLabelValues(c.prefix).Inc()
	if !noted {
		unreadableObjects.WithLabelValues(c.prefix).Inc()
	}
	message := "Stored object cannot be decoded: lists and watches keep showing its last state; write it again, or delete it with ignoreStoreReadErrorWithClusterBreakingPotential"
	if !kept {
		message = "Stored object cannot be decoded and no earlier state is known: lists that would hold it fail until it is deleted with ignoreStoreReadErrorWithClusterBreakingPotential"
	}
	slog.Error(message, "key", ch.key, "revision", ch.revision, "err", ch.err)
}

// forget drops the record of a key that is written or deleted. The caller holds mu.
func (c *Cache) forget(ch change) {
	if _, noted := c.unreadable[ch.key]; noted {
		delete(c.unreadable, ch.key)
		unreadableObjects.WithLabelValues(c.prefix).Dec()
		slog.Info("Stored object that could not be decoded is written or deleted", "key", ch.key, "revision", ch.revision)
	}
}

// Unreadable returns the objects below a prefix that cannot be decoded, in order of their keys.
func (c *Cache) Unreadable(prefix string) []Unreadable {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var found []Unreadable
	for u := range maps.Values(c.unreadable) {
		if strings.HasPrefix(u.Key, prefix) {
			found = append(found, *u)
		}
	}
	slices.SortFunc(found, func(a, b Unreadable) int { return cmp.Compare(a.Key, b.Key) })
	return found
}

// Reread lists again if there are objects that could not be decoded: they may be readable now, with another encryption key for example.
func (c *Cache) Reread() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.unreadable) > 0 {
		signal(c.reread)
	}
}

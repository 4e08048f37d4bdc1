package watchcache

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// waitSeconds is how far caches are behind etcd, as readers find them.
var waitSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
	Name: "skep_watchcache_wait_seconds", Help: "Time that readers waited for a cache to have what etcd has, by the prefix of its keys.",
	Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3, 10},
}, []string{"prefix"})

// Stats is the size of a cache, and its revision.
type Stats struct {
	Objects      int
	WindowEvents int
	WindowBytes  int // as stored
	Revision     int64
}

// Stats counts what the cache holds.
func (c *Cache) Stats() Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return Stats{Objects: c.tree.Len(), WindowEvents: c.window.count, WindowBytes: c.window.bytes, Revision: c.revision}
}

// await waits for a channel that is closed when the cache has what a reader needs.
func (c *Cache) await(ctx context.Context, there <-chan struct{}) error {
	began := time.Now()
	defer func() { waitSeconds.WithLabelValues(c.prefix).Observe(time.Since(began).Seconds()) }()
	select {
	case <-there:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

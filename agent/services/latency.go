package services

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// latencyBounds are kube-proxy's for this metric, in seconds, and shorter ones.
var latencyBounds = append(append(append([]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5},
	prometheus.LinearBuckets(1, 1, 59)...), prometheus.LinearBuckets(60, 5, 12)...), prometheus.LinearBuckets(120, 30, 7)...)

// programmingDesc is kube-proxy's metric.
var programmingDesc = prometheus.NewDesc("kubeproxy_network_programming_duration_seconds",
	"Time from the change of a pod's readiness, as the endpoints controller dates it, until this node's maps have it.", []string{"ip_family"}, nil)

// latency measures how long changes of endpoints take to reach this node's maps. Those of before it was made are not counted.
type latency struct {
	since time.Time

	mu   sync.Mutex
	made map[discoveryv1.AddressType]*histogram
}

// change is when the pod of an endpoint changed.
type change struct {
	family discoveryv1.AddressType
	at     time.Time
}

// histogram has in counts[i] how many were within latencyBounds[i] and no lower bound, and at its end those within none.
type histogram struct {
	counts []uint64
	count  uint64
	sum    float64
}

func newLatency() *latency {
	return &latency{since: time.Now(), made: map[discoveryv1.AddressType]*histogram{}}
}

// annotations returns those of a slice that changes needs; none for a slice that changed before the measuring began.
func (l *latency) annotations(s *discoveryv1.EndpointSlice) map[string]string {
	const name = corev1.EndpointsLastChangeTriggerTime
	if at, err := time.Parse(time.RFC3339Nano, s.Annotations[name]); err != nil || !at.After(l.since) {
		return nil
	}
	return map[string]string{name: s.Annotations[name]}
}

// changes are those that a slice tells of.
func (l *latency) changes(s *discoveryv1.EndpointSlice) []change {
	at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return nil
	}
	return []change{{s.AddressType, at}}
}

// applied says that the maps have these changes now.
func (l *latency) applied(changes []change) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		h := l.made[c.family]
		if h == nil {
			h = &histogram{counts: make([]uint64, len(latencyBounds)+1)}
			l.made[c.family] = h
		}
		took := max(0, now.Sub(c.at).Seconds()) // the clocks of two hosts may differ
		h.count++
		h.sum += took
		i := 0
		for i < len(latencyBounds) && took > latencyBounds[i] {
			i++
		}
		h.counts[i]++
	}
}

// Describe and Collect make it a prometheus.Collector.
func (l *latency) Describe(ch chan<- *prometheus.Desc) { ch <- programmingDesc }

func (l *latency) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for family, h := range l.made {
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, bound := range latencyBounds {
			sum += h.counts[i]
			buckets[bound] = sum
		}
		ch <- prometheus.MustNewConstHistogram(programmingDesc, h.count, h.sum, buckets, string(family))
	}
}

// Metrics are what the watcher measures.
func (w *Watcher) Metrics() prometheus.Collector { return w.latency }

// Programming says how long changes of endpoints of both families took to reach this node's maps.
func (w *Watcher) Programming() []skepv1.Bucket {
	w.latency.mu.Lock()
	defer w.latency.mu.Unlock()
	var buckets []skepv1.Bucket
	for i := range len(latencyBounds) + 1 {
		var count uint64
		for _, h := range w.latency.made {
			count += h.counts[i]
		}
		if count == 0 {
			continue
		}
		b := skepv1.Bucket{Count: count}
		if i < len(latencyBounds) {
			b.Seconds = latencyBounds[i]
		}
		buckets = append(buckets, b)
	}
	return buckets
}

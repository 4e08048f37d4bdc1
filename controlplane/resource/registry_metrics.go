package resource

import "github.com/prometheus/client_golang/prometheus"

var (
	cacheLabels      = []string{"group", "resource"}
	cacheObjects     = prometheus.NewDesc("skep_watchcache_objects", "Objects in the cache.", cacheLabels, nil)
	cacheEvents      = prometheus.NewDesc("skep_watchcache_window_events", "Past events that watches can resume from.", cacheLabels, nil)
	cacheEventsBytes = prometheus.NewDesc("skep_watchcache_window_bytes", "Bytes that the objects of those events take in etcd.", cacheLabels, nil)
	cacheRevision    = prometheus.NewDesc("skep_watchcache_revision", "Revision of etcd up to which the cache has everything.", cacheLabels, nil)
)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{cacheObjects, cacheEvents, cacheEventsBytes, cacheRevision} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (r *Registry) Collect(metrics chan<- prometheus.Metric) {
	for _, k := range r.Kinds() {
		stats := r.Cache(k).Stats()
		for desc, value := range map[*prometheus.Desc]float64{
			cacheObjects: float64(stats.Objects), cacheEvents: float64(stats.WindowEvents),
			cacheEventsBytes: float64(stats.WindowBytes), cacheRevision: float64(stats.Revision),
		} {
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, k.GVK.Group, k.Resource)
		}
	}
}

package eviction

import "github.com/prometheus/client_golang/prometheus"

// Metrics are kubelet's metrics of evictions.
type Metrics struct {
	evictions *prometheus.CounterVec
	statsAge  *prometheus.HistogramVec
}

// NewMetrics returns the metrics of a node.
func NewMetrics() *Metrics {
	return &Metrics{
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_evictions", Help: "Cumulative number of pod evictions by eviction signal",
		}, []string{"eviction_signal"}),
		statsAge: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_eviction_stats_age_seconds",
			Help: "Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
		}, []string{"eviction_signal"}),
	}
}

// Count counts an eviction: for a node's Signal, or for a limit that a pod exceeds, by kubelet's name.
func (m *Metrics) Count(signal string) { m.evictions.WithLabelValues(signal).Inc() }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.evictions.Describe(ch)
	m.statsAge.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.evictions.Collect(ch)
	m.statsAge.Collect(ch)
}

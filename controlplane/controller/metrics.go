package controller

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/client-go/util/workqueue"
)

var byName = []string{"name"}

// The names, labels and buckets are those of Kubernetes' components.
var (
	queueDepth = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "workqueue_depth", Help: "Keys that wait in a control loop's queue.",
	}, byName)
	queueAdds = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "workqueue_adds_total", Help: "Keys added to a control loop's queue.",
	}, byName)
	queueWait = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "workqueue_queue_duration_seconds", Help: "Time that a key waited in the queue.", Buckets: prometheus.ExponentialBuckets(1e-8, 10, 10),
	}, byName)
	queueWork = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "workqueue_work_duration_seconds", Help: "Time that the work on a key took.", Buckets: prometheus.ExponentialBuckets(1e-8, 10, 10),
	}, byName)
	queueUnfinished = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "workqueue_unfinished_work_seconds", Help: "Time that the work in progress has taken so far, of all keys together: it grows while work hangs.",
	}, byName)
	queueLongest = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "workqueue_longest_running_processor_seconds", Help: "Time that the longest work in progress has taken so far.",
	}, byName)
	queueRetries = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "workqueue_retries_total", Help: "Retries of keys whose work failed.",
	}, byName)
)

// queueMetrics is what a work queue reports to.
type queueMetrics struct{}

var _ workqueue.MetricsProvider = queueMetrics{}

func (queueMetrics) NewDepthMetric(name string) workqueue.GaugeMetric {
	return queueDepth.WithLabelValues(name)
}

func (queueMetrics) NewAddsMetric(name string) workqueue.CounterMetric {
	return queueAdds.WithLabelValues(name)
}

func (queueMetrics) NewLatencyMetric(name string) workqueue.HistogramMetric {
	return queueWait.WithLabelValues(name)
}

func (queueMetrics) NewWorkDurationMetric(name string) workqueue.HistogramMetric {
	return queueWork.WithLabelValues(name)
}

func (queueMetrics) NewUnfinishedWorkSecondsMetric(name string) workqueue.SettableGaugeMetric {
	return queueUnfinished.WithLabelValues(name)
}

func (queueMetrics) NewLongestRunningProcessorSecondsMetric(name string) workqueue.SettableGaugeMetric {
	return queueLongest.WithLabelValues(name)
}

func (queueMetrics) NewRetriesMetric(name string) workqueue.CounterMetric {
	return queueRetries.WithLabelValues(name)
}

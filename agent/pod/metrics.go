package pod

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/probe"
)

// metrics count what the workers do, by the kubelet's names.
type metrics struct {
	probes       *prometheus.CounterVec
	probeSeconds *prometheus.HistogramVec
	startSeconds prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		probeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"probe_type", "container", "pod", "namespace"}),
		startSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pod_start_duration_seconds", Help: "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
			Buckets: []float64{.02, .04, .06, .08, .1, .15, .2, .3, .5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		}),
	}
}

// ProbeMetrics are those of the kubelet's /metrics/probes.
func (p *Pods) ProbeMetrics() []prometheus.Collector {
	return []prometheus.Collector{p.metrics.probes, p.metrics.probeSeconds}
}

// Metrics are those of the workers in the kubelet's /metrics.
func (p *Pods) Metrics() prometheus.Collector { return p.metrics.startSeconds }

// probed counts an attempt.
func (m *metrics) probed(pod *corev1.Pod, container string, r probe.Report) {
	result := "failed"
	switch {
	case r.Outcome.Err != nil:
		result = "unknown"
	case r.Outcome.OK:
		result = "successful"
	}
	m.probes.WithLabelValues(string(r.Kind), result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
	m.probeSeconds.WithLabelValues(string(r.Kind), container, pod.Name, pod.Namespace).Observe(r.Took.Seconds())
}

// statusChanged counts a pod that was pending as this agent first saw it, when it runs.
func (w *worker) statusChanged(now *corev1.PodStatus) {
	before := w.latest.Swap(now)
	if now.Phase != corev1.PodRunning || before != nil && before.Phase == corev1.PodRunning {
		return
	}
	if w.ref.Status.Phase == corev1.PodPending && len(w.ref.Status.ContainerStatuses) == 0 {
		w.pods.metrics.startSeconds.Observe(time.Since(w.seenAt).Seconds())
	}
}

// forget removes the series of a pod that is gone. Its successor may have the same name, as a StatefulSet's has, and loses its durations until the
// next probe.
func (m *metrics) forget(pod *corev1.Pod) {
	m.probes.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
	m.probeSeconds.DeletePartialMatch(prometheus.Labels{"pod": pod.Name, "namespace": pod.Namespace})
}

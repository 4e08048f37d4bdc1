package stats

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ResourceMetrics exposes CPU, memory and swap of the node, its pods and containers by the names of the kubelet's /metrics/resource, which is
// all that metrics-server reads.
func (c *Collector) ResourceMetrics() prometheus.Collector { return resourceMetrics{c} }

type resourceMetrics struct{ c *Collector }

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}
)

var (
	nodeCPU          = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory       = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	nodeSwap         = prometheus.NewDesc("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", nil, nil)
	containerCPU     = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer, nil)
	containerMemory  = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer, nil)
	containerSwap    = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", ofContainer, nil)
	containerStarted = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer, nil)
	podCPU           = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod, nil)
	podMemory        = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod, nil)
	podSwap          = prometheus.NewDesc("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", ofPod, nil)
	// Both names of the error, of which the first is the older, as the kubelet has them.
	resourceErrors = []*prometheus.Desc{
		prometheus.NewDesc("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil),
		prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil),
	}
)

// Describe implements prometheus.Collector.
func (resourceMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{
		nodeCPU, nodeMemory, nodeSwap, containerCPU, containerMemory, containerSwap, containerStarted, podCPU, podMemory, podSwap,
	}, resourceErrors...) {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m resourceMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	summary, err := m.c.Summary(ctx)
	failed := 0.0
	if err != nil {
		slog.Warn("resource metrics not measured", "err", err)
		failed = 1
	}
	for _, d := range resourceErrors {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, failed)
	}
	if err != nil {
		return
	}
	sendUsed(ch, summary.Node.CPU, summary.Node.Memory, summary.Node.Swap, nodeCPU, nodeMemory, nodeSwap)
	for _, p := range summary.Pods {
		sendUsed(ch, p.CPU, p.Memory, p.Swap, podCPU, podMemory, podSwap, p.PodRef.Name, p.PodRef.Namespace)
		for _, ctr := range p.Containers {
			labels := []string{ctr.Name, p.PodRef.Name, p.PodRef.Namespace}
			sendUsed(ch, ctr.CPU, ctr.Memory, ctr.Swap, containerCPU, containerMemory, containerSwap, labels...)
			if !ctr.StartTime.IsZero() {
				ch <- prometheus.MustNewConstMetric(containerStarted, prometheus.GaugeValue, unixTime(ctr.StartTime.Time), labels...)
			}
		}
	}
}

// sendUsed sends what was measured, with the time of the sample: rates are computed by it.
func sendUsed(ch chan<- prometheus.Metric, c *statsapi.CPUStats, m *statsapi.MemoryStats, s *statsapi.SwapStats, cpuDesc, memoryDesc, swapDesc *prometheus.Desc, labels ...string) {
	send := func(at metav1.Time, d *prometheus.Desc, kind prometheus.ValueType, value float64) {
		ch <- prometheus.NewMetricWithTimestamp(at.Time, prometheus.MustNewConstMetric(d, kind, value, labels...))
	}
	if c != nil && c.UsageCoreNanoSeconds != nil {
		send(c.Time, cpuDesc, prometheus.CounterValue, float64(*c.UsageCoreNanoSeconds)/float64(time.Second))
	}
	if m != nil && m.WorkingSetBytes != nil {
		send(m.Time, memoryDesc, prometheus.GaugeValue, float64(*m.WorkingSetBytes))
	}
	if s != nil && s.SwapUsageBytes != nil {
		send(s.Time, swapDesc, prometheus.GaugeValue, float64(*s.SwapUsageBytes))
	}
}

package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
)

// podMetrics counts what runs, by the kubelet's metric names.
type podMetrics struct {
	node string
	pods *pod.Pods
}

var (
	nodeName          = prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil)
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
)

// Describe implements prometheus.Collector.
func (m *podMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeName, runningPods, runningContainers} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *podMetrics) Collect(ch chan<- prometheus.Metric) {
	pods := 0
	containers := map[runtime.State]int{runtime.Created: 0, runtime.Running: 0, runtime.Exited: 0}
	for _, state := range m.pods.List() {
		if phase := state.Status.Phase; len(state.Status.PodIPs) > 0 && phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			pods++
		}
		for _, c := range state.Containers {
			containers[c.State]++
		}
	}
	ch <- prometheus.MustNewConstMetric(nodeName, prometheus.GaugeValue, 1, m.node)
	ch <- prometheus.MustNewConstMetric(runningPods, prometheus.GaugeValue, float64(pods))
	for state, n := range containers {
		ch <- prometheus.MustNewConstMetric(runningContainers, prometheus.GaugeValue, float64(n), string(state))
	}
}

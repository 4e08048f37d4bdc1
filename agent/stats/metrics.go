package stats

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics exposes what containers use, by the metric names that dashboards for Kubernetes use.
func (c *Collector) Metrics() prometheus.Collector { return metrics{c} }

type metrics struct{ c *Collector }

var containerLabels = []string{"namespace", "pod", "container"}

var (
	cpuSeconds = prometheus.NewDesc("container_cpu_usage_seconds_total", "CPU time used.", containerLabels, nil)
	memBytes   = prometheus.NewDesc("container_memory_usage_bytes", "Memory in use, caches included.", containerLabels, nil)
	memWorking = prometheus.NewDesc("container_memory_working_set_bytes", "Memory in use without the file cache that can be dropped.", containerLabels, nil)
	memRSS     = prometheus.NewDesc("container_memory_rss", "Anonymous memory in use.", containerLabels, nil)
	processes  = prometheus.NewDesc("container_processes", "Tasks in the cgroup.", containerLabels, nil)
	readBytes  = prometheus.NewDesc("container_fs_reads_bytes_total", "Bytes read from block devices.", containerLabels, nil)
	writeBytes = prometheus.NewDesc("container_fs_writes_bytes_total", "Bytes written to block devices.", containerLabels, nil)
	reads      = prometheus.NewDesc("container_fs_reads_total", "Reads from block devices.", containerLabels, nil)
	writes     = prometheus.NewDesc("container_fs_writes_total", "Writes to block devices.", containerLabels, nil)
	rxBytes    = prometheus.NewDesc("container_network_receive_bytes_total", "Bytes received by the pod.", []string{"namespace", "pod", "interface"}, nil)
	txBytes    = prometheus.NewDesc("container_network_transmit_bytes_total", "Bytes sent by the pod.", []string{"namespace", "pod", "interface"}, nil)
)

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{cpuSeconds, memBytes, memWorking, memRSS, processes, readBytes, writeBytes, reads, writes, rxBytes, txBytes, fsUsage, fsLimit} {
		ch <- d
	}
}

// collectTimeout bounds one collection.
const collectTimeout = 30 * time.Second

// Collect implements prometheus.Collector. Rows with an empty container are a whole pod's.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	disks, _ := m.c.measureDisks(ctx)
	for _, s := range m.c.Usages(ctx) {
		l := []string{s.Pod.Namespace, s.Pod.Name, s.Container}
		u := s.Usage
		send(cpuSeconds, prometheus.CounterValue, float64(u.CPU)/1e9, l...)
		send(memBytes, prometheus.GaugeValue, float64(u.Memory), l...)
		send(memWorking, prometheus.GaugeValue, float64(u.WorkingSet), l...)
		send(memRSS, prometheus.GaugeValue, float64(u.RSS), l...)
		send(processes, prometheus.GaugeValue, float64(u.Processes), l...)
		send(readBytes, prometheus.CounterValue, float64(u.ReadBytes), l...)
		send(writeBytes, prometheus.CounterValue, float64(u.WriteBytes), l...)
		send(reads, prometheus.CounterValue, float64(u.Reads), l...)
		send(writes, prometheus.CounterValue, float64(u.Writes), l...)
		if s.Container != "" {
			continue
		}
		m.collectDisk(ch, s.Pod, disks)
		if n, ok := m.c.source.PodNetwork(s.Pod.UID); ok {
			send(rxBytes, prometheus.CounterValue, float64(n.RxBytes), s.Pod.Namespace, s.Pod.Name, n.Interface)
			send(txBytes, prometheus.CounterValue, float64(n.TxBytes), s.Pod.Namespace, s.Pod.Name, n.Interface)
		}
	}
}

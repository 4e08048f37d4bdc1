package stats

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// families are cAdvisor's metrics of cgroups that the kubelet exposes, with cAdvisor's names. Values of a pod are those of all in it.
var families = []metric{
	gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", func(r *row) float64 { return unixTime(r.started) }),
	gauge("container_last_seen", "Last time a container was seen by the exporter", func(r *row) float64 { return unixTime(r.usage.At) }),

	define("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", prometheus.CounterValue,
		func(r *row, send func(float64, ...string)) { send(float64(r.usage.CPU)/1e9, "total") }, "cpu"),
	counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(r *row) float64 { return r.detail.UserCPU.Seconds() }),
	counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(r *row) float64 { return r.detail.SystemCPU.Seconds() }),
	throttled("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(t Throttling) float64 { return float64(t.Periods) }),
	throttled("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(t Throttling) float64 { return float64(t.Throttled) }),
	throttled("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(t Throttling) float64 { return t.Time.Seconds() }),
	limited("container_spec_cpu_period", "CPU period of the container.", func(r *row) uint64 { return r.detail.CPULimit.Period }),
	limited("container_spec_cpu_quota", "CPU quota of the container.", func(r *row) uint64 { return r.detail.CPULimit.Quota }),
	limited("container_spec_cpu_shares", "CPU share of the container.", func(r *row) uint64 { return r.detail.CPULimit.Shares }),

	gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(r *row) float64 { return float64(r.usage.Memory) }),
	gauge("container_memory_working_set_bytes", "Current working set in bytes.", func(r *row) float64 { return float64(r.usage.WorkingSet) }),
	gauge("container_memory_rss", "Size of RSS in bytes.", func(r *row) float64 { return float64(r.usage.RSS) }),
	gauge("container_memory_cache", "Number of bytes of page cache memory.", func(r *row) float64 { return float64(r.detail.Cache) }),
	gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", func(r *row) float64 { return float64(r.detail.MappedFile) }),
	gauge("container_memory_swap", "Container swap usage in bytes.", func(r *row) float64 { return float64(r.usage.Swap) }),
	gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", func(r *row) float64 { return float64(r.detail.Kernel) }),
	gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", func(r *row) float64 { return float64(r.detail.Peak) }),
	gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", func(r *row) float64 { return float64(r.detail.ActiveFile) }),
	gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", func(r *row) float64 { return float64(r.detail.InactiveFile) }),
	counter("container_memory_failcnt", "Number of memory usage hits limits", func(r *row) float64 { return float64(r.detail.LimitHits) }),
	define("container_memory_failures_total", "Cumulative count of memory allocation failures.", prometheus.CounterValue, func(r *row, send func(float64, ...string)) {
		send(float64(r.usage.PageFaults), "pgfault", "hierarchy")
		send(float64(r.usage.MajorPageFaults), "pgmajfault", "hierarchy")
	}, "failure_type", "scope"),
	counter("container_oom_events_total", "Count of out of memory events observed for the container", func(r *row) float64 { return float64(r.detail.OOMKills) }),
	// Without a limit these are zero, as with cAdvisor: rules compare with that.
	gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", func(r *row) float64 { return float64(r.detail.MemoryLimit) }),
	gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", func(r *row) float64 { return float64(r.detail.SwapLimit) }),
	gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", func(r *row) float64 { return float64(r.detail.MemoryReservation) }),

	gauge("container_processes", "Number of processes running inside the container.", func(r *row) float64 { return float64(r.usage.Processes) }),
	gauge("container_threads", "Number of threads running inside the container", func(r *row) float64 { return float64(r.usage.Processes) }),
	gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", func(r *row) float64 { return float64(r.detail.ThreadsLimit) }),

	onDisk("container_fs_reads_bytes_total", "Cumulative count of bytes read", func(d DiskIO) uint64 { return d.ReadBytes }),
	onDisk("container_fs_reads_total", "Cumulative count of reads completed", func(d DiskIO) uint64 { return d.Reads }),
	onDisk("container_fs_writes_bytes_total", "Cumulative count of bytes written", func(d DiskIO) uint64 { return d.WriteBytes }),
	onDisk("container_fs_writes_total", "Cumulative count of writes completed", func(d DiskIO) uint64 { return d.Writes }),
	stored("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", func(r *row) *uint64 { return &r.fsUsed }),
	stored("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", func(r *row) *uint64 { return r.fs.CapacityBytes }),
	stored("container_fs_inodes_free", "Number of available Inodes", func(r *row) *uint64 { return r.fs.InodesFree }),
	stored("container_fs_inodes_total", "Number of Inodes", func(r *row) *uint64 { return r.fs.Inodes }),

	onInterface("container_network_receive_bytes_total", "Cumulative count of bytes received", func(n Network) uint64 { return n.RxBytes }),
	onInterface("container_network_receive_packets_total", "Cumulative count of packets received", func(n Network) uint64 { return n.RxPackets }),
	onInterface("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", func(n Network) uint64 { return n.RxDropped }),
	onInterface("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", func(n Network) uint64 { return n.RxErrors }),
	onInterface("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", func(n Network) uint64 { return n.TxBytes }),
	onInterface("container_network_transmit_packets_total", "Cumulative count of packets transmitted", func(n Network) uint64 { return n.TxPackets }),
	onInterface("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", func(n Network) uint64 { return n.TxDropped }),
	onInterface("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", func(n Network) uint64 { return n.TxErrors }),

	pressured("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", func(r *row) Pressure { return r.detail.CPUPressure }, waiting),
	pressured("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", func(r *row) Pressure { return r.detail.CPUPressure }, stalled),
	pressured("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", func(r *row) Pressure { return r.detail.MemoryPressure }, waiting),
	pressured("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", func(r *row) Pressure { return r.detail.MemoryPressure }, stalled),
	pressured("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", func(r *row) Pressure { return r.detail.IOPressure }, waiting),
	pressured("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", func(r *row) Pressure { return r.detail.IOPressure }, stalled),
}

// throttled is a counter of rows with a CPU limit.
func throttled(name, help string, value func(Throttling) float64) metric {
	return define(name, help, prometheus.CounterValue, func(r *row, send func(float64, ...string)) {
		if r.detail.CPULimit.Quota > 0 {
			send(value(r.detail.Throttling))
		}
	})
}

// limited is a figure that a row has only if it is not zero.
func limited(name, help string, value func(r *row) uint64) metric {
	return define(name, help, prometheus.GaugeValue, func(r *row, send func(float64, ...string)) {
		if v := value(r); v > 0 {
			send(float64(v))
		}
	})
}

// stored is a figure of the file system that the row's files are on, once they have been measured.
func stored(name, help string, value func(r *row) *uint64) metric {
	return define(name, help, prometheus.GaugeValue, func(r *row, send func(float64, ...string)) {
		if r.fs == nil {
			return
		}
		if v := value(r); v != nil {
			send(float64(*v), r.fsDevice)
		}
	}, "device")
}

func unixTime(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

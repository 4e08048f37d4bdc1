package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"
)

// gather are the metrics of collectors, by name.
func gather(t *testing.T, collectors ...prometheus.Collector) map[string][]*dto.Metric {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*dto.Metric{}
	for _, family := range families {
		all[family.GetName()] = family.GetMetric()
	}
	return all
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

func valueIn(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

// Rows have cAdvisor's labels, all of them on every row: dashboards select the containers by image!="", a pod by container="", and the node by
// id="/".
func TestRowsAsDashboardsSelectThem(t *testing.T) {
	pod, container := realCgroup(t)
	class, above := filepath.Dir(pod), filepath.Dir(filepath.Dir(pod))
	if above != "/" {
		t.Fatalf("the pod's cgroup is %s", pod)
	}
	runIn(t, container, "exec sleep 600")
	c := newCollector(t, &fixed{pods: []Pod{{
		Namespace: "ns", Name: "p", UID: "uid", CgroupPath: pod,
		Containers: []Container{{Name: "c", CgroupPath: container, ID: "0123", Image: "registry.example/app:1", StartedAt: time.Unix(1700000000, 0)}},
	}}})
	all := gather(t, c.Metrics())
	rows := map[string]map[string]string{}
	for name, list := range all {
		for _, m := range list {
			labels := labelsOf(m)
			id, isRow := labels["id"]
			if !isRow {
				continue
			}
			for _, want := range containerLabels {
				if _, has := labels[want]; !has {
					t.Errorf("%s has no label %s: %v", name, want, labels)
				}
			}
			if m.GetTimestampMs() == 0 {
				t.Errorf("%s has no time", name)
			}
			for _, extra := range []string{"cpu", "device", "interface", "failure_type", "scope"} {
				delete(labels, extra)
			}
			if before := rows[id]; before != nil && !reflect.DeepEqual(before, labels) {
				t.Errorf("%s: labels %v of %s, and %v elsewhere", name, labels, id, before)
			}
			rows[id] = labels
		}
	}
	for id, want := range map[string]map[string]string{
		"/":       {"container": "", "image": "", "name": "", "namespace": "", "pod": ""},
		class:     {"container": "", "image": "", "name": "", "namespace": "", "pod": ""},
		pod:       {"container": "", "image": "", "name": "", "namespace": "ns", "pod": "p"},
		container: {"container": "c", "image": "registry.example/app:1", "name": "0123", "namespace": "ns", "pod": "p"},
	} {
		want["id"] = id
		if !reflect.DeepEqual(rows[id], want) {
			t.Errorf("row %s has labels %v, want %v", id, rows[id], want)
		}
	}
	for _, name := range []string{"machine_cpu_cores", "machine_memory_bytes"} {
		if list := all[name]; len(list) != 1 || valueIn(list[0]) == 0 {
			t.Errorf("%s: %v", name, list)
		}
	}
	if list := all["container_scrape_error"]; len(list) != 1 || valueIn(list[0]) != 0 {
		t.Errorf("container_scrape_error: %v", list)
	}
	of := func(name, id string) float64 {
		for _, m := range all[name] {
			if labelsOf(m)["id"] == id {
				return valueIn(m)
			}
		}
		t.Errorf("%s has no row of %s", name, id)
		return 0
	}
	for _, name := range []string{"container_cpu_usage_seconds_total", "container_memory_usage_bytes", "container_processes", "container_spec_cpu_shares"} {
		if of(name, container) == 0 {
			t.Errorf("%s of a container with a process is 0", name)
		}
	}
	for _, name := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_receive_bytes_total", "container_fs_limit_bytes"} {
		if of(name, "/") == 0 {
			t.Errorf("%s of the node is 0", name)
		}
	}
	if of("container_network_receive_bytes_total", pod) != 7 || of("container_start_time_seconds", container) != 1700000000 {
		t.Error("the pod's network, or the container's start, is not the source's")
	}
}

// A limit of half a CPU, and one of 32 MiB of memory in which a process is killed, are in the figures.
func TestLimitsAndWhatTheyCause(t *testing.T) {
	_, container := realCgroup(t)
	h := hierarchy(t)
	set := func(r resource, legacy, unified, value string) {
		t.Helper()
		name := legacy
		if h.unified[r] {
			name = unified
		}
		if err := os.WriteFile(filepath.Join(h.dirs[r], container, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	quota := "20000"
	if h.unified[cpuLimit] {
		quota = "20000 100000"
	}
	set(cpuLimit, "cpu.cfs_quota_us", "cpu.max", quota)
	set(memory, "memory.limit_in_bytes", "memory.max", fmt.Sprint(32<<20))
	cmd := runIn(t, container, `(exec tail /dev/zero >/dev/null 2>&1); end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done; exec sleep 600`)
	awaitExec(t, cmd.Process.Pid, "sleep")
	d, err := h.Detail(container, make([]byte, 16<<10))
	if err != nil {
		t.Fatal(err)
	}
	if d.OOMKills == 0 || d.LimitHits == 0 || d.MemoryLimit != 32<<20 || d.Peak < 31<<20 {
		t.Errorf("memory: %d processes killed, limit %d hit %d times, at most %d in use", d.OOMKills, d.MemoryLimit, d.LimitHits, d.Peak)
	}
	if d.CPULimit.Quota != 20000 || d.CPULimit.Period != 100000 || d.Throttling.Throttled == 0 || d.Throttling.Periods < d.Throttling.Throttled || d.Throttling.Time == 0 {
		t.Errorf("CPU: limit %+v, throttling %+v", d.CPULimit, d.Throttling)
	}
	if d.UserCPU+d.SystemCPU == 0 {
		t.Error("neither user's nor system's CPU time")
	}
}

func TestParseDetail(t *testing.T) {
	for name, c := range map[string]struct {
		unified bool
		text    map[string]string // by the file's name
		want    Detail
	}{
		"v2": {true, map[string]string{
			"cpu.stat":    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\nnr_periods 7\nnr_throttled 3\nthrottled_usec 5\n",
			"cpu.max":     "50000 100000\n",
			"cpu.weight":  "100\n",
			"memory.stat": "anon 1\nfile 2\nkernel 3\nfile_mapped 4\ninactive_file 5\nactive_file 6\n",
			"memory.peak": "9\n", "memory.events": "low 0\nhigh 0\nmax 8\noom 2\noom_kill 1\n",
			"memory.max": "11\n", "memory.swap.max": "max\n", "memory.low": "0\n", "pids.max": "max\n",
			"io.stat":      "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=6 rios=7 wios=8 dbytes=0 dios=0\n",
			"cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=11\n",
		}, Detail{
			UserCPU: 20 * time.Microsecond, SystemCPU: 10 * time.Microsecond, Throttling: Throttling{7, 3, 5 * time.Microsecond}, CPULimit: CPULimit{50000, 100000, 2597},
			Cache: 2, Kernel: 3, MappedFile: 4, InactiveFile: 5, ActiveFile: 6, Peak: 9, LimitHits: 8, OOMKills: 1, MemoryLimit: 11,
			CPUPressure: Pressure{true, 12 * time.Microsecond, 11 * time.Microsecond},
			Disks:       []DiskIO{{int(unix.Mkdev(8, 0)), 1, 2, 3, 4}, {int(unix.Mkdev(8, 16)), 5, 6, 7, 8}},
		}},
		"v1": {false, map[string]string{
			"cpuacct.stat": "user 20\nsystem 10\n", "cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 5\n",
			"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n", "cpu.shares": "1024\n",
			"memory.stat":               "cache 1\ntotal_cache 2\ntotal_mapped_file 4\ntotal_inactive_file 5\ntotal_active_file 6\n",
			"memory.max_usage_in_bytes": "9\n", "memory.failcnt": "8\n", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
			"memory.kmem.usage_in_bytes": "3\n", "memory.limit_in_bytes": "9223372036854771712\n", "memory.memsw.limit_in_bytes": "12\n", "pids.max": "13\n",
			"blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n", "blkio.throttle.io_serviced_recursive": "8:0 Read 3\n8:0 Write 4\n",
		}, Detail{
			UserCPU: 200 * time.Millisecond, SystemCPU: 100 * time.Millisecond, Throttling: Throttling{7, 3, 5}, CPULimit: CPULimit{0, 100000, 1024},
			Cache: 2, Kernel: 3, MappedFile: 4, InactiveFile: 5, ActiveFile: 6, Peak: 9, LimitHits: 8, OOMKills: 1, SwapLimit: 12, ThreadsLimit: 13,
			Disks: []DiskIO{{int(unix.Mkdev(8, 0)), 1, 2, 3, 4}},
		}},
	} {
		var got Detail
		for _, f := range detailFiles {
			file := f.legacy
			if c.unified {
				file = f.unified
			}
			if text, ok := c.text[file]; ok {
				f.parse(&got, c.unified, []byte(text))
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	// Nothing makes a reading fail, or find what is not there.
	for _, f := range detailFiles {
		for _, unified := range []bool{false, true} {
			for _, text := range []string{"", "\n", "max", "max max\n", "8:", "8:0", "x:y rbytes=", "some", "some total=", "\xff\x00"} {
				var d Detail
				f.parse(&d, unified, []byte(text))
				if d.OOMKills != 0 || d.MemoryLimit != 0 || slices.ContainsFunc(d.Disks, func(disk DiskIO) bool { return disk.Reads > 0 }) {
					t.Errorf("%q: %+v", text, d)
				}
			}
		}
	}
}

package stats

import (
	"testing"
	"time"
)

// What metrics-server reads: a sample with its time for every container, and the container's start.
func TestResourceMetrics(t *testing.T) {
	pod, container := realCgroup(t)
	runIn(t, container, "while :; do :; done")
	started := time.Now().Add(-time.Minute)
	c := newCollector(t, &fixed{pods: []Pod{{
		Namespace: "ns", Name: "p", UID: "uid", CgroupPath: pod, Containers: []Container{{Name: "c", CgroupPath: container, StartedAt: started}},
	}}})
	all := gather(t, c.ResourceMetrics())
	for name, labels := range map[string]map[string]string{
		"node_cpu_usage_seconds_total": {}, "node_memory_working_set_bytes": {},
		"pod_cpu_usage_seconds_total": {"pod": "p", "namespace": "ns"}, "pod_memory_working_set_bytes": {"pod": "p", "namespace": "ns"},
		"container_cpu_usage_seconds_total":  {"container": "c", "pod": "p", "namespace": "ns"},
		"container_memory_working_set_bytes": {"container": "c", "pod": "p", "namespace": "ns"},
		"container_start_time_seconds":       {"container": "c", "pod": "p", "namespace": "ns"},
	} {
		list := all[name]
		if len(list) != 1 || valueIn(list[0]) == 0 {
			t.Errorf("%s: %v", name, list)
			continue
		}
		if got := labelsOf(list[0]); len(got) != len(labels) {
			t.Errorf("%s has labels %v, want %v", name, got, labels)
		}
		for label, want := range labels {
			if got := labelsOf(list[0])[label]; got != want {
				t.Errorf("%s: label %s is %q, want %q", name, label, got, want)
			}
		}
		if age := time.Since(time.UnixMilli(list[0].GetTimestampMs())); name != "container_start_time_seconds" && (age < 0 || age > time.Minute) {
			t.Errorf("%s is %v old", name, age)
		}
	}
	for _, name := range []string{"pod_swap_usage_bytes", "container_swap_usage_bytes", "node_swap_usage_bytes", "resource_scrape_error", "scrape_error"} {
		if list := all[name]; len(list) != 1 {
			t.Errorf("%s: %v", name, list)
		}
	}
	if list := all["resource_scrape_error"]; len(list) == 1 && valueIn(list[0]) != 0 {
		t.Errorf("an error is reported")
	}
}

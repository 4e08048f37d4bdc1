package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/skep-io/skep/test/clustertest"
)

// scrape reads metrics of a node through the API server, as Prometheus is configured to.
func scrape(s *space, node, path string) map[string]*dto.MetricFamily {
	s.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(s.Skep("get", "--raw", "/api/v1/nodes/"+node+"/proxy"+path)))
	if err != nil {
		s.Fatal(err)
	}
	return families
}

// selected are the values of a family's rows that a selector such as namespace="x",image!="" leaves.
func selected(families map[string]*dto.MetricFamily, name, selector string) (values []float64) {
	family := families[name]
	if family == nil {
		return nil
	}
rows:
	for _, m := range family.GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		for _, part := range strings.Split(selector, ",") {
			label, want, _ := strings.Cut(part, "=")
			label, not := strings.CutSuffix(label, "!")
			if (labels[label] == strings.Trim(want, `"`)) == not {
				continue rows
			}
		}
		values = append(values, m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue())
	}
	return values
}

// The rows that the kubernetes-mixin's rules and the dashboards select are there: containers by their image, the pod by an empty container, the
// node's root cgroup; and all of what metrics-server reads.
func TestMetricsOfContainers(t *testing.T) {
	s := newSpace(t)
	s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"busy"},"spec":{"nodeName":"node1","terminationGracePeriodSeconds":1,
		"containers":[{"name":"c","image":"skep/echo:dev","imagePullPolicy":"IfNotPresent","resources":{"limits":{"memory":"64Mi","cpu":"500m"}}}]}}`, "create", "-f", "-")
	s.Await("the pod", clustertest.AllReady(1))
	own := fmt.Sprintf(`namespace=%q,pod="busy"`, s.Name)
	containers, resources := scrape(s, "node1", "/metrics/cadvisor"), scrape(s, "node1", "/metrics/resource")
	for _, c := range []struct {
		families       map[string]*dto.MetricFamily
		name, selector string
		positive       bool
	}{
		{containers, "container_cpu_usage_seconds_total", own + `,image!="",container="c",cpu="total"`, true},
		{containers, "container_memory_working_set_bytes", own + `,image!="",container="c"`, true},
		{containers, "container_memory_rss", own + `,container="c",image!=""`, true},
		{containers, "container_cpu_cfs_periods_total", own + `,container="c"`, false},
		{containers, "container_cpu_cfs_throttled_periods_total", own + `,container="c"`, false},
		{containers, "container_spec_memory_limit_bytes", own + `,container="c"`, true},
		{containers, "container_oom_events_total", own + `,container="c"`, false},
		{containers, "container_memory_working_set_bytes", own + `,container="",image=""`, true},
		{containers, "container_network_receive_bytes_total", own + `,interface="eth0"`, false},
		{containers, "container_network_transmit_packets_dropped_total", own + `,interface="eth0"`, false},
		{containers, "container_cpu_usage_seconds_total", `id="/"`, true},
		{containers, "container_memory_usage_bytes", `id="/"`, true},
		{containers, "machine_memory_bytes", `machine_id!="none"`, true},
		{resources, "container_cpu_usage_seconds_total", own + `,container="c"`, true},
		{resources, "container_memory_working_set_bytes", own + `,container="c"`, true},
		{resources, "container_start_time_seconds", own + `,container="c"`, true},
		{resources, "pod_cpu_usage_seconds_total", own, true},
		{resources, "pod_memory_working_set_bytes", own, true},
	} {
		values := selected(c.families, c.name, c.selector)
		if len(values) != 1 || c.positive && values[0] == 0 {
			t.Errorf("%s{%s} is %v", c.name, c.selector, values)
		}
	}
	for _, row := range containers["container_memory_working_set_bytes"].GetMetric() {
		for _, l := range row.GetLabel() {
			if l.GetName() == "id" && strings.Contains(l.GetValue(), local.Name) {
				t.Errorf("the id %s is not that of a cgroup below the node's", l.GetValue())
			}
		}
	}
	node := scrape(s, "node1", "/metrics")
	for name, selector := range map[string]string{"kubelet_node_name": `node="node1"`, "kubelet_running_pods": `node=""`, "kubelet_running_containers": `container_state="running"`} {
		if values := selected(node, name, selector); len(values) != 1 || values[0] == 0 {
			t.Errorf("%s{%s} is %v", name, selector, values)
		}
	}
	var text bytes.Buffer
	if _, err := expfmt.MetricFamilyToText(&text, resources["resource_scrape_error"]); err != nil || !strings.HasSuffix(strings.TrimSpace(text.String()), " 0") {
		t.Errorf("resource_scrape_error: %s %v", &text, err)
	}
}

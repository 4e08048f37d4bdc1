package apiserver

import (
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// Requests are counted by kube-apiserver's names, labels and verbs, and nothing that a client invents becomes a label.
func TestRequestsAreCountedAsDashboardsAsk(t *testing.T) {
	jsonType := http.Header{"Content-Type": {"application/json"}}
	applyType := http.Header{"Content-Type": {string(types.ApplyYAMLPatchType)}}
	const path = "/api/v1/namespaces/default/configmaps"
	for _, r := range []struct {
		method, path, body string
		header             http.Header
		code               int
	}{
		{"POST", path + "?dryRun=All", `{"metadata":{"name":"counted"}}`, jsonType, 201},
		{"PATCH", path + "/counted?dryRun=All&fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap"}`, applyType, 201},
		{"GET", path + "/invented-name", "", nil, 404},
		{"GET", path + "/invented-name/invented-part", "", nil, 404},
		{"GET", "/api/v1/invented-kind", "", nil, 404},
		{"GET", "/api/v1/configmaps", "", nil, 200},
	} {
		if response, answer := shared.raw(t, shared.config, r.method, r.path, r.header, r.body); response.StatusCode != r.code {
			t.Fatalf("%s %s: %s %s", r.method, r.path, response.Status, answer)
		}
	}
	_, answer := shared.raw(t, shared.config, "GET", "/metrics", nil, "")
	metrics := string(answer)
	for _, want := range []string{
		`apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"}`,
		`apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="configmaps",scope="resource",subresource="",verb="APPLY",version="v1"}`,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"}`,
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="cluster",subresource="",verb="LIST",version="v1"}`,
		`apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="configmaps",scope="cluster",subresource="",verb="LIST",version="v1"}`,
		`apiserver_request_sli_duration_seconds_bucket{component="apiserver",group="",resource="configmaps",scope="cluster",subresource="",verb="LIST",version="v1",le="+Inf"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if i := strings.Index(metrics, "invented"); i >= 0 {
		t.Errorf("a client's word is in the metrics: %.200s", metrics[max(0, i-100):])
	}
}

package apiserver

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Requests that a client library would not send are answered with a Status that says what is wrong.
func TestBadRequests(t *testing.T) {
	ns := namespace(t)
	base := "/api/v1/namespaces/" + ns
	cm := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`
	jsonType := http.Header{"Content-Type": {mediaJSON}}
	patchType := http.Header{"Content-Type": {"application/merge-patch+json"}}
	tests := []struct {
		method, path string
		header       http.Header
		body         string
		code         int
		reason       metav1.StatusReason
		message      string
	}{
		{"GET", "/nowhere", nil, "", 404, "NotFound", "could not find the requested resource"},
		{"GET", "/api/v2/pods", nil, "", 404, "NotFound", "could not find"},
		{"GET", "/apis/apps/v1/daemonsets", nil, "", 404, "NotFound", "could not find"},
		{"GET", "/apis/batch/v1", nil, "", 404, "NotFound", "could not find"},
		{"GET", "/api/v1/pods/x", nil, "", 404, "NotFound", "could not find"},
		{"GET", base + "/nodes", nil, "", 404, "NotFound", "could not find"},
		{"GET", base + "/pods/x/none", nil, "", 404, "NotFound", "could not find"},
		{"GET", base + "/configmaps/x/status", nil, "", 404, "NotFound", "could not find"},
		{"GET", base + "/configmaps/x", nil, "", 404, "NotFound", `configmaps "x" not found`},
		{"GET", base + "/configmaps/..", nil, "", 404, "NotFound", ""},
		{"POST", "/api/v1/configmaps", jsonType, cm, 405, "MethodNotAllowed", ""},
		{"PUT", base + "/configmaps", jsonType, cm, 405, "MethodNotAllowed", ""},
		{"DELETE", "/api/v1/namespaces", nil, "", 405, "MethodNotAllowed", ""},
		{"BREW", base + "/configmaps", nil, "", 405, "MethodNotAllowed", ""},
		{"POST", "/version", nil, "", 405, "MethodNotAllowed", ""},
		{"POST", "/api", nil, "", 405, "MethodNotAllowed", ""},
		{"POST", base + "/configmaps", jsonType, "", 400, "BadRequest", "<empty>"},
		{"POST", base + "/configmaps", jsonType, "{", 400, "BadRequest", "must be of type ConfigMap"},
		{"POST", base + "/configmaps", jsonType, `[]`, 400, "BadRequest", ""},
		{"POST", base + "/configmaps", jsonType, `{"kind":"Pod","apiVersion":"v1"}`, 400, "BadRequest", `Pod in version "v1" cannot be handled as a ConfigMap`},
		{"POST", base + "/configmaps", jsonType, `{"kind":"Gadget","apiVersion":"v1"}`, 400, "BadRequest", `Gadget in version "v1" cannot be handled as a ConfigMap`},
		{"POST", base + "/configmaps", jsonType, `{"kind":"ConfigMap","apiVersion":"v2"}`, 400, "BadRequest", ""},
		{"POST", base + "/configmaps", jsonType, `{"data":{"a":1}}`, 400, "BadRequest", ""},
		{"POST", base + "/configmaps", jsonType, `{"metadata":{"name":"x","namespace":"other"}}`, 400, "BadRequest", "does not match the namespace sent on the request"},
		{"POST", base + "/configmaps", jsonType, `{"metadata":{"name":"X_Y"}}`, 422, "Invalid", "metadata.name"},
		{"POST", base + "/configmaps", jsonType, `{"metadata":{}}`, 422, "Invalid", "name or generateName is required"},
		{"POST", base + "/configmaps?fieldValidation=Strict", jsonType, `{"metadata":{"name":"x"},"dta":{}}`, 400, "BadRequest", `strict decoding error: unknown field "dta"`},
		{"POST", base + "/configmaps?fieldValidation=Strict", jsonType, `{"metadata":{"name":"x","name":"y"}}`, 400, "BadRequest", `duplicate field "metadata.name"`},
		{"POST", base + "/configmaps?fieldValidation=Maybe", jsonType, cm, 422, "Invalid", "fieldValidation"},
		{"POST", base + "/configmaps?dryRun=Some", jsonType, cm, 422, "Invalid", "dryRun"},
		{"POST", base + "/configmaps", http.Header{"Content-Type": {"text/html"}}, cm, 415, "UnsupportedMediaType", "accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"POST", base + "/configmaps", http.Header{"Content-Type": {mediaProtobuf}}, "k8s\x00\xff\xff", 400, "BadRequest", ""},
		{"POST", base + "/configmaps", http.Header{"Content-Type": {mediaYAML}}, "a: [", 400, "BadRequest", ""},
		{"POST", base + "/configmaps", jsonType, strings.Repeat(" ", maxBody+1), 413, "RequestEntityTooLarge", "limit is 3145728"},
		{"POST", "/api/v1/namespaces/no-such/configmaps", jsonType, cm, 404, "NotFound", `namespaces "no-such" not found`},
		{"GET", base + "/configmaps", http.Header{"Accept": {"text/html"}}, "", 406, "NotAcceptable", "only the following media types are accepted"},
		{"GET", base + "/configmaps?limit=ten", nil, "", 400, "BadRequest", ""},
		{"GET", base + "/configmaps?labelSelector=a%20b", nil, "", 400, "BadRequest", "unable to parse requirement"},
		{"GET", base + "/configmaps?fieldSelector=a", nil, "", 400, "BadRequest", "invalid selector"},
		{"GET", base + "/configmaps?continue=rubbish", nil, "", 400, "BadRequest", "continue"},
		{"GET", base + "/configmaps?resourceVersion=abc", nil, "", 400, "BadRequest", ""},
		{"GET", base + "/configmaps?resourceVersionMatch=Exact", nil, "", 422, "Invalid", ""},
		{"GET", base + "/configmaps?watch=1&resourceVersion=abc", nil, "", 400, "BadRequest", ""},
		{"GET", base + "/configmaps?watch=1&sendInitialEvents=true", nil, "", 422, "Invalid", ""},
		{"GET", base + "/configmaps?includeObject=All", http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io"}}, "", 400, "BadRequest", "includeObject"},
		{"GET", base + "/configmaps", http.Header{"Accept": {"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}}, "", 406, "NotAcceptable", ""},
		{"PUT", base + "/configmaps/y", jsonType, cm, 400, "BadRequest", "the name of the object (x) does not match the name on the URL (y)"},
		{"PUT", base + "/configmaps/x", jsonType, cm, 404, "NotFound", ""},
		{"PATCH", base + "/configmaps/x", jsonType, "{}", 415, "UnsupportedMediaType", "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"},
		{"PATCH", base + "/configmaps/x", patchType, "{}", 404, "NotFound", ""},
		{"DELETE", base + "/configmaps/x", jsonType, "{", 400, "BadRequest", ""},
		{"DELETE", base + "/configmaps/x", jsonType, cm, 400, "BadRequest", ""},
		{"DELETE", base + "/configmaps/x?propagationPolicy=Sometimes", nil, "", 422, "Invalid", "propagationPolicy"},
		{"GET", base + "/pods/none/log", nil, "", 404, "NotFound", `pods "none" not found`},
		{"GET", base + "/pods/none/log?tailLines=x", nil, "", 400, "BadRequest", ""},
		{"GET", "/apis/metrics.k8s.io/v1beta1/nodes?watch=1", nil, "", 405, "MethodNotAllowed", ""},
		{"GET", "/apis/metrics.k8s.io/v1beta1/nodes/none", nil, "", 404, "NotFound", ""},
		{"GET", "/openapi/v3/apis/batch/v1", nil, "", 404, "NotFound", ""},
	}
	for _, tt := range tests {
		response, body := shared.raw(t, shared.config, tt.method, tt.path, tt.header, tt.body)
		var status metav1.Status
		if err := json.Unmarshal(body, &status); err != nil || status.Kind != "Status" {
			t.Errorf("%s %s: %s: no Status: %.200s", tt.method, tt.path, response.Status, body)
			continue
		}
		if response.StatusCode != tt.code || status.Reason != tt.reason || int(status.Code) != tt.code || !strings.Contains(status.Message, tt.message) {
			t.Errorf("%s %s %.60s:\ngot  %d %s %q\nwant %d %s %q", tt.method, tt.path, tt.body, response.StatusCode, status.Reason, status.Message, tt.code, tt.reason, tt.message)
		}
	}
}

func TestWarnings(t *testing.T) {
	base := "/api/v1/namespaces/" + namespace(t) + "/configmaps"
	response, body := shared.raw(t, shared.config, "POST", base, http.Header{"Content-Type": {mediaJSON}}, `{"metadata":{"name":"x"},"dta":{},"data":{"a":"1","a":"2"}}`)
	want := []string{`299 - "unknown field \"dta\""`, `299 - "duplicate field \"data.a\""`}
	if got := response.Header.Values("Warning"); response.StatusCode != 201 || len(got) != 2 || !strings.Contains(strings.Join(got, "\n"), want[0]) || !strings.Contains(strings.Join(got, "\n"), want[1]) {
		t.Errorf("%s, warnings %q, want %q\n%s", response.Status, got, want, body)
	}
	response, body = shared.raw(t, shared.config, "PUT", base+"/x?fieldValidation=Ignore", http.Header{"Content-Type": {mediaYAML}}, "metadata: {name: x}\ndta: 1\n")
	if got := response.Header.Values("Warning"); response.StatusCode != 200 || len(got) != 0 {
		t.Errorf("Ignore: %s, warnings %q\n%s", response.Status, got, body)
	}
}

func TestForms(t *testing.T) {
	ns := namespace(t)
	base := "/api/v1/namespaces/" + ns + "/configmaps"
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("a", "k", strings.Repeat("long ", gzipThreshold/5)), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	accept := func(v string) http.Header { return http.Header{"Accept": {v}} }
	for _, tt := range []struct {
		path, mediaType string
		header          http.Header
		start           string
	}{
		{base, mediaJSON, nil, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{`},
		{base + "?pretty=true", mediaJSON, nil, "{\n  \"kind\": \"ConfigMapList\""},
		{base + "/a?pretty=1", mediaJSON, nil, "{\n  \"kind\": \"ConfigMap\""},
		{base, mediaYAML, accept(mediaYAML), "apiVersion: v1\nitems:\n"},
		{base, mediaProtobuf, accept(mediaProtobuf), "k8s\x00"},
		{base, mediaJSON, accept("application/json;as=Table;v=v1;g=meta.k8s.io"), `{"kind":"Table","apiVersion":"meta.k8s.io/v1"`},
		{base, mediaJSON, accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"), `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1"`},
		{"/", mediaJSON, nil, `{"paths":["/api"`},
		{"/metrics", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", nil, "# HELP"},
		{"/debug/pprof/goroutine?debug=1", "text/plain; charset=utf-8", nil, "goroutine profile: total "},
		{"/openapi/v3", mediaJSON, nil, `{"paths":{"api/v1":{"serverRelativeURL":"/openapi/v3/api/v1?hash=`},
		{"/healthz", "text/plain; charset=utf-8", nil, "ok"},
		{"/readyz?verbose", "text/plain; charset=utf-8", nil, "[+]ping ok\n[+]caches ok\n[+]shutdown ok\nreadyz check passed\n"},
	} {
		response, body := shared.raw(t, shared.config, "GET", tt.path, tt.header, "")
		if response.StatusCode != 200 || response.Header.Get("Content-Type") != tt.mediaType || !strings.HasPrefix(string(body), tt.start) {
			t.Errorf("%s %v: %s %s\n%.120s\nwant %s\n%s", tt.path, tt.header, response.Status, response.Header.Get("Content-Type"), body, tt.mediaType, tt.start)
		}
	}
	response, body := shared.raw(t, shared.config, "GET", base, http.Header{"Accept-Encoding": {"gzip"}}, "")
	if response.Header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(string(body), "\x1f\x8b") || len(body) > gzipThreshold/4 {
		t.Errorf("a large list came in %d bytes, encoding %q", len(body), response.Header.Get("Content-Encoding"))
	}
	if response, body := shared.raw(t, shared.config, "HEAD", base+"/a", nil, ""); response.StatusCode != 200 || len(body) != 0 {
		t.Errorf("HEAD: %s, %d bytes", response.Status, len(body))
	}
}

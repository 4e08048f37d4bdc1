package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// largestAnswer is the maximum size of an answer to a bad body: it repeats little of the body.
const largestAnswer = 64 << 10

// Bodies and requests that would take far more memory or time than they have bytes are answered with a Status that says what
// is wrong, in bounded memory, while leases are renewed.
func TestBodiesThatUnfold(t *testing.T) {
	p := attackedServer(t)
	ns := "/api/v1/namespaces/default"
	if _, err := p.client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("target", "a", strings.Repeat("x", 100<<10)), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	json0, yaml0, proto0 := http.Header{"Content-Type": {mediaJSON}}, http.Header{"Content-Type": {mediaYAML}}, http.Header{"Content-Type": {mediaProtobuf}}
	jsonPatch, merge, strategic := http.Header{"Content-Type": {"application/json-patch+json"}},
		http.Header{"Content-Type": {"application/merge-patch+json"}}, http.Header{"Content-Type": {"application/strategic-merge-patch+json"}}
	long := func(s string, n int) string { return strings.Repeat(s, n) }
	var laughs strings.Builder
	laughs.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for c := 'b'; c < 'k'; c++ {
		fmt.Fprintf(&laughs, "  %c: &%c [%s]\n", c, c, strings.TrimSuffix(long(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 64<<20)) // into memory
	_ = z.Close()
	nested := func(open, inner, end string, n int) string { return long(open, n) + inner + long(end, n) }
	var operations []string
	for range 24 {
		operations = append(operations, `{"op":"copy","from":"/data","path":"/data/b"}`)
	}
	copies := "[" + strings.Join(operations, ",") + "]"
	var keys strings.Builder
	for i := range 90000 {
		fmt.Fprintf(&keys, `"!%d":"",`, i)
	}
	pod := func(containers string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[` + containers + `]}}`
	}
	for _, tt := range []struct {
		name, method, path string
		header             http.Header
		body               string
		codes              []int
	}{
		{"JSON patch that copies (CVE-2019-1002100)", "PATCH", ns + "/configmaps/target", jsonPatch, copies, []int{413}},
		{"JSON patch of too many operations", "PATCH", ns + "/configmaps/target", jsonPatch, "[" + strings.TrimSuffix(long(`{"op":"test","path":""},`, 10001), ",") + "]", []int{413}},
		{"JSON patch of more values", "PATCH", ns + "/configmaps/target", jsonPatch, `[{"op":"add","path":"/data","value":[` + strings.TrimSuffix(long("0,", 1<<20), ",") + `]}]`, []int{413}},
		{"deep merge patch", "PATCH", ns + "/configmaps/target", merge, nested(`{"a":`, `{}`, `}`, 100000), []int{400}},
		{"deep strategic patch", "PATCH", ns + "/configmaps/target", strategic, nested(`{"data":`, `{}`, `}`, 9000), []int{400}},
		{"strategic patch of unknown fields", "PATCH", ns + "/configmaps/target?fieldValidation=Strict", strategic, "{" + strings.Replace(keys.String(), "!", "u", -1) + `"z":1}`, []int{422}},
		{"deep JSON", "POST", ns + "/configmaps", json0, nested("[", "", "]", 100000), []int{400}},
		{"deep object", "POST", ns + "/configmaps", json0, nested(`{"metadata":`, `{}`, `}`, 9999), []int{400}},
		{"containers of three bytes", "POST", ns + "/pods", json0, pod(strings.TrimSuffix(long("{},", 1<<20), ",")), []int{413}},
		{"containers of three bytes in YAML", "POST", ns + "/pods", yaml0, pod(strings.TrimSuffix(long("{},", 1<<20), ",")), []int{413}},
		{"containers of two bytes in protobuf", "POST", ns + "/pods", proto0, protobufPod(long("\x12\x00", 1<<20)), []int{413}},
		{"billion laughs (CVE-2019-11253)", "POST", ns + "/configmaps", yaml0, laughs.String(), []int{400, 413}},
		{"a long text ten thousand times", "POST", ns + "/configmaps", yaml0, "a: &a " + long("x", 1<<20) + "\nb: [" + strings.TrimSuffix(long("*a,", 10000), ",") + "]\n", []int{413}},
		{"deep YAML", "POST", ns + "/configmaps", yaml0, nested("[", "", "]", 100000), []int{400, 413}},
		{"gzip bomb", "POST", ns + "/configmaps", http.Header{"Content-Type": {mediaJSON}, "Content-Encoding": {"gzip"}}, zipped.String(), []int{415}},
		{"protobuf that lies about a length", "POST", ns + "/configmaps", proto0, "k8s\x00\x12\xff\xff\xff\xff\x07x", []int{400}},
		{"protobuf in itself", "POST", ns + "/pods", proto0, protobufPod(nestedProtobuf(100000)), []int{400}},
		{"bad annotations", "POST", ns + "/configmaps", json0, `{"metadata":{"name":"x","annotations":{` + strings.TrimSuffix(keys.String(), ",") + `}}}`, []int{422}},
		{"bad keys", "POST", ns + "/configmaps", json0, `{"metadata":{"name":"x"},"data":{` + strings.TrimSuffix(keys.String(), ",") + `}}`, []int{422}},
		{"unknown fields", "POST", ns + "/configmaps?dryRun=All", json0, `{"metadata":{"name":"x"},` + strings.TrimSuffix(strings.Replace(keys.String(), "!", "u", -1), ",") + `}`, []int{201}},
		{"an unknown field of a megabyte", "POST", ns + "/configmaps?dryRun=All", json0, `{"metadata":{"name":"x"},"` + long("x", 1<<20) + `":1}`, []int{201}},
		{"an unknown field of a megabyte, strictly", "POST", ns + "/configmaps?fieldValidation=Strict", json0, `{"metadata":{"name":"x"},"` + long("x", 1<<20) + `":1}`, []int{400}},
		{"a kind of a megabyte", "POST", ns + "/configmaps", json0, `{"kind":"` + long("x", 1<<20) + `","apiVersion":"v1"}`, []int{400}},
		{"a name of a megabyte", "POST", ns + "/configmaps", json0, `{"metadata":{"name":"` + long("x", 1<<20) + `"}}`, []int{422}},
		{"not as JSON at all", "POST", ns + "/configmaps", json0, long("\xff", 1<<20), []int{400}},
		{"label selector", "GET", ns + "/configmaps?labelSelector=" + long("a%2C", 20000), nil, "", []int{200, 400}},
		{"set selector", "GET", ns + "/configmaps?labelSelector=a+in+(" + long("b%2C", 20000) + ")", nil, "", []int{200, 400}},
		{"field selector", "GET", ns + "/configmaps?fieldSelector=" + long("metadata.name%3Dx%2C", 5000), nil, "", []int{200, 400}},
		{"continue token", "GET", ns + "/configmaps?limit=1&continue=" + long("A", 100000), nil, "", []int{400}},
		{"accept clauses", "GET", ns, http.Header{"Accept": {long("application/x;q=0.1,", 5000)}}, "", []int{406}},
		{"impersonation", "GET", ns, http.Header{"Impersonate-User": {"x"}, "Impersonate-Group": strings.Split(long("g,", 4000), ",")}, "", []int{403}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			underAttack(t, p, 400<<20, func(context.Context) {
				response, answer := p.raw(t, p.config, tt.method, tt.path, tt.header, tt.body)
				code := 0
				for _, want := range tt.codes {
					if response.StatusCode == want {
						code = want
					}
				}
				headers := 0
				for _, warning := range response.Header.Values("Warning") {
					headers += len(warning)
				}
				if code == 0 || len(answer) > largestAnswer+len(tt.path) || headers > 2*maxWarnings {
					t.Errorf("%s with %d bytes of warnings and %d bytes, want %d: %.300s", response.Status, headers, len(answer), tt.codes, answer)
				}
				var status metav1.Status
				if err := json.Unmarshal(answer, &status); code >= 400 && (err != nil || int(status.Code) != code) {
					t.Errorf("no Status: %.300s", answer)
				}
			})
		})
	}
	t.Run("copies at once", func(t *testing.T) {
		underAttack(t, p, 400<<20, func(context.Context) {
			var group sync.WaitGroup
			for range 22 {
				group.Go(func() {
					if response, _ := p.raw(t, p.config, "PATCH", ns+"/configmaps/target", jsonPatch, copies); response.StatusCode != 413 {
						t.Errorf("%s, want 413", response.Status)
					}
				})
			}
			group.Wait()
		})
	})
}

// protobufPod is a Pod document whose spec is the given bytes.
func protobufPod(spec string) string {
	meta := appendBytes(nil, 1, appendBytes(nil, 1, []byte("x")))
	pod := appendBytes(meta, 2, []byte(spec))
	document := protobufEnvelope(corev1.SchemeGroupVersion.WithKind("Pod"), len(pod))
	return string(append(append(document, pod...), protobufTrailer...))
}

// nestedProtobuf is n nested groups, the innermost empty.
func nestedProtobuf(n int) string {
	return strings.Repeat(string(binary.AppendUvarint(nil, 999<<3|3)), n)
}

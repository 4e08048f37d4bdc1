package apiserver

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/skep-io/skep/controlplane/admission"
)

// A client that creates or changes a network policy is warned that it is not enforced.
func TestNetworkPolicyWarning(t *testing.T) {
	base := "/apis/networking.k8s.io/v1/namespaces/" + namespace(t) + "/networkpolicies"
	want := "299 - " + strconv.Quote(admission.NetworkPolicyWarning)
	for _, c := range []struct{ method, path, media, body string }{
		{"POST", base, mediaJSON, `{"metadata":{"name":"x"},"spec":{"podSelector":{}}}`},
		{"PUT", base + "/x", mediaJSON, `{"metadata":{"name":"x"},"spec":{"podSelector":{"matchLabels":{"a":"b"}}}}`},
		{"PATCH", base + "/x", "application/merge-patch+json", `{"spec":{"policyTypes":["Ingress"]}}`},
	} {
		response, body := shared.raw(t, shared.config, c.method, c.path, http.Header{"Content-Type": {c.media}}, c.body)
		if got := response.Header.Values("Warning"); response.StatusCode/100 != 2 || len(got) != 1 || got[0] != want {
			t.Errorf("%s %s: %s, warnings %q, want %q\n%s", c.method, c.media, response.Status, got, want, body)
		}
	}
}

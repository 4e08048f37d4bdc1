package apiserver

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	tests := map[string]target{
		"/api/v1/pods":                                       {version: "v1", resource: "pods"},
		"/api/v1/pods/":                                      {version: "v1", resource: "pods"},
		"/api/v1/nodes/n1":                                   {version: "v1", resource: "nodes", name: "n1"},
		"/api/v1/nodes/n1/proxy/stats/summary":               {version: "v1", resource: "nodes", name: "n1", subresource: "proxy", rest: "/stats/summary"},
		"/api/v1/nodes/n1/proxy/":                            {version: "v1", resource: "nodes", name: "n1", subresource: "proxy", rest: "/"},
		"/api/v1/namespaces":                                 {version: "v1", resource: "namespaces"},
		"/api/v1/namespaces/a":                               {version: "v1", resource: "namespaces", name: "a"},
		"/api/v1/namespaces/a/":                              {version: "v1", resource: "namespaces", name: "a"},
		"/api/v1/namespaces/a/status":                        {version: "v1", resource: "namespaces", name: "a", subresource: "status"},
		"/api/v1/namespaces/a/finalize":                      {version: "v1", resource: "namespaces", name: "a", subresource: "finalize"},
		"/api/v1/namespaces/a/pods":                          {version: "v1", namespace: "a", resource: "pods"},
		"/api/v1/namespaces/a/pods/p":                        {version: "v1", namespace: "a", resource: "pods", name: "p"},
		"/api/v1/namespaces/a/pods/p/log":                    {version: "v1", namespace: "a", resource: "pods", name: "p", subresource: "log"},
		"/apis/discovery.k8s.io/v1/endpointslices":           {group: "discovery.k8s.io", version: "v1", resource: "endpointslices"},
		"/apis/metrics.k8s.io/v1beta1/nodes/n1":              {group: "metrics.k8s.io", version: "v1beta1", resource: "nodes", name: "n1"},
		"/api/v1/watch/pods":                                 {version: "v1", resource: "pods", watch: true},
		"/api/v1/watch/namespaces/a/pods/p":                  {version: "v1", namespace: "a", resource: "pods", name: "p", watch: true},
		"/apis/coordination.k8s.io/v1/namespaces/a/leases/l": {group: "coordination.k8s.io", version: "v1", namespace: "a", resource: "leases", name: "l"},
	}
	for path, want := range tests {
		if got, ok := parseTarget(path); !ok || got != want {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", path, got, ok, want)
		}
	}
	for _, path := range []string{"", "/", "/api", "/api/", "/api/v1", "/api/v1/", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/",
		"/api/v1//pods", "/api/v1/namespaces//pods", "/api/v1/pods//log", "/api/v1/pods/p//x", "/healthz", "/version", "/apiv1/pods/x"} {
		if got, ok := parseTarget(path); ok {
			t.Errorf("%q was taken for a resource: %+v", path, got)
		}
	}
}

// FuzzPath reads paths: the parts that are found are in the path, in order, complete between slashes, with none missing in between.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/api/v1/namespaces/a/pods/b/exec", "/apis/apps/v1/watch/deployments", "/api/v1/nodes/https:a:1/proxy/x/../y", "/api//", "//", "", "/apis/a/b/c/d/e/f/g",
		"/api/v1/namespaces/a/status", "/api/v1/watch/namespaces//pods", "/api/v1/proxy/nodes/a", "/apis/a/b/c", "/api/v1/watch", "/api/v1/watch/",
		"/api/v1/namespaces/a//", "/api/v1/nodes/n/proxy//../x", "api/v1/pods", "/api/\x00/\xff",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		isDiscoveryPath(path)
		got, ok := parseTarget(path)
		if !ok {
			if got != (target{}) {
				t.Fatalf("%q is no resource and yet names %+v", path, got)
			}
			return
		}
		if got.resource == "" || got.version == "" && !strings.Contains(path, "//") || got.name == "" && got.subresource != "" || got.subresource == "" && got.rest != "" {
			t.Fatalf("%q: parts are missing in the middle: %+v", path, got)
		}
		rest := path
		for _, part := range []string{got.group, got.version, got.namespace, got.resource, got.name, got.subresource, got.rest} {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Fatalf("%q is not in %q after what stands before it: %+v", part, path, got)
			}
			if strings.Contains(part, "/") && part != got.rest {
				t.Fatalf("%q: a part spans a slash: %+v", path, got)
			}
			rest = after
		}
	})
}

package apiserver

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// target is what the path of an API request names. Its parts are as the client sent them, unchecked.
type target struct {
	group, version                    string
	namespace                         string
	resource, name, subresource, rest string
	// watch is set for the paths that begin with …/watch/, which clients from before the query parameter use.
	watch bool
}

func (t *target) resourceVersion() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource}
}

// parseTarget reads /api/v1/… and /apis/GROUP/VERSION/…. It returns false for every path that does not reach as far as a
// resource, which includes the discovery documents above it.
func parseTarget(path string) (target, bool) {
	var t target
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return target{}, false
	}
	if parts[0] == "watch" && len(parts) > 1 {
		t.watch, parts = true, parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "" && parts[2] != "status" && parts[2] != "finalize" {
		t.namespace, parts = parts[1], parts[2:]
		if t.namespace == "" {
			return target{}, false
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = parts[2]
	}
	if len(parts) > 3 {
		t.rest = "/" + strings.Join(parts[3:], "/")
	}
	// An empty part inside the path names nothing; one at its end is a trailing slash.
	if t.resource == "" || (t.name == "" && len(parts) > 2) || (t.subresource == "" && len(parts) > 3) {
		return target{}, false
	}
	return t, true
}

package kinds

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/resource"
)

// action is a subresource that an object of another kind is posted to.
func action(name string, gvk schema.GroupVersionKind, posted func() runtime.Object) resource.Subresource {
	return resource.Subresource{Name: name, Verbs: []string{"create"}, GVK: gvk, New: posted}
}

// connection is a subresource that streams bytes both ways.
func connection(name, kind string, options func() runtime.Object) resource.Subresource {
	return resource.Subresource{
		Name: name, Verbs: []string{"create", "get"}, GVK: coreV1.WithKind(kind), Options: options, MediaType: "*/*",
	}
}

// proxied is a subresource that passes HTTP requests on, with their paths.
func proxied(kind string, options func() runtime.Object) resource.Subresource {
	sub := connection("proxy", kind, options)
	sub.Verbs, sub.Path = []string{"create", "delete", "get", "patch", "update"}, true
	return sub
}

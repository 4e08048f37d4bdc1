package storage

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Root is above every key that holds an API object.
const Root = "/registry/"

// resourcePaths holds the resources whose keys do not follow from their name,
// as kube-apiserver's storage has had them since before there were groups.
var resourcePaths = map[schema.GroupResource]string{
	{Resource: "nodes"}:                                 "minions",
	{Resource: "services"}:                              "services/specs",
	{Resource: "endpoints"}:                             "services/endpoints",
	{Resource: "replicationcontrollers"}:                "controllers",
	{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",
}

// clusterScoped are the resources of the built-in groups whose objects are in no namespace.
var clusterScoped = map[schema.GroupResource]bool{
	{Resource: "nodes"}:                                       true,
	{Resource: "namespaces"}:                                  true,
	{Resource: "persistentvolumes"}:                           true,
	{Group: "networking.k8s.io", Resource: "ipaddresses"}:     true,
	{Group: "networking.k8s.io", Resource: "servicecidrs"}:    true,
	{Group: "networking.k8s.io", Resource: "ingressclasses"}:  true,
	{Group: "scheduling.k8s.io", Resource: "priorityclasses"}: true,
	{Group: "storage.k8s.io", Resource: "storageclasses"}:     true,
}

// Prefix is the path above all objects of a resource, with a slash at its end.
func Prefix(gr schema.GroupResource) string {
	if path, ok := resourcePaths[gr]; ok {
		return Root + path + "/"
	}
	return Root + gr.Resource + "/"
}

// Key is the path of one object. Without a name it is the prefix of a namespace.
func Key(gr schema.GroupResource, namespace, name string) string {
	if namespace == "" {
		return Prefix(gr) + name
	}
	return Prefix(gr) + namespace + "/" + name
}

// ParseKey undoes Key. It is not ok for a key of another resource, and for one
// that has more or fewer parts than the resource's keys have.
func ParseKey(gr schema.GroupResource, key string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, Prefix(gr))
	if !ok || rest == "" {
		return "", "", false
	}
	if clusterScoped[gr] {
		return "", rest, !strings.Contains(rest, "/")
	}
	namespace, name, ok = strings.Cut(rest, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", false
	}
	return namespace, name, true
}

package resource

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	coreV1         = schema.GroupVersion{Version: "v1"}
	appsV1         = schema.GroupVersion{Group: "apps", Version: "v1"}
	coordinationV1 = schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}
	discoveryV1    = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}
	networkingV1   = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}
)

// allVerbs are the verbs of every kind here: none is read-only.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Kinds lists every kind that is served, in the order in which discovery tells
// them: by group, then by resource.
func Kinds() []*Kind {
	return []*Kind{
		ConfigMaps,
		Endpoints,
		Events,
		Namespaces,
		Nodes,
		Pods,
		PodTemplates,
		ReplicationControllers,
		Secrets,
		ServiceAccounts,
		Services,
		Deployments,
		ReplicaSets,
		Leases,
		EndpointSlices,
		IngressClasses,
		Ingresses,
		IPAddresses,
		NetworkPolicies,
		ServiceCIDRs,
	}
}

// Package kinds holds the rules of every kind that Skep serves, one file each:
// defaults, validation, what may change, subresources, selectable fields and
// indexes, with Kubernetes' own code where there is any. It holds no code that stores or
// serves objects: that is in resource.
package kinds

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/resource"
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

// All lists every kind that is served, in the order in which discovery lists
// them: by group, then by resource.
func All() []*resource.Kind {
	return []*resource.Kind{
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
		PriorityClasses,
		PodDisruptionBudgets,
	}
}

// Package admission holds the plugins that refuse or complete changes depending on what
// else is stored and on who makes them, one plugin in each file, as Kubernetes' admission
// plugins of the same names. The registry runs them for every create, update and delete,
// of clients and of control loops alike: those that change an object between its defaults
// and its validation, those that only check it after that. They store nothing. The caller
// passes the kinds that they check.
package admission

import (
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/resource"
)

// Kinds are those that plugins check or read.
type Kinds struct {
	Namespaces, Nodes, Pods, Services, Events, Ingresses, IngressClasses, PriorityClasses, NetworkPolicies *resource.Kind
}

// Plugins are all plugins, in the order in which they run. They read from r.
func (k Kinds) Plugins(r *resource.Registry, cluster allocator.Cluster, allocated allocator.Kinds) []admission.Interface {
	return []admission.Interface{
		&nodeRestriction{Handler: admission.NewHandler(admission.Create, admission.Update), kinds: k, registry: r},
		&namespaceLifecycle{Handler: admission.NewHandler(admission.Create, admission.Delete), namespaces: k.Namespaces, registry: r},
		newEventRateLimit(r, k.Events),
		&priority{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete), kinds: k, registry: r},
		&defaultIngressClass{Handler: admission.NewHandler(admission.Create), kinds: k, registry: r},
		&externalIPs{Handler: admission.NewHandler(admission.Create, admission.Update), services: k.Services, registry: r, cluster: cluster, allocated: allocated},
		&networkPolicyWarning{Handler: admission.NewHandler(admission.Create, admission.Update), policies: k.NetworkPolicies},
	}
}

// of says whether a change is to an object of a kind, and not to a subresource.
func of(a admission.Attributes, k *resource.Kind) bool {
	return a.GetSubresource() == "" && a.GetResource() == k.GroupVersionResource()
}

package kinds

import (
	upstream "k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/admission"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// Allocated are the kinds whose objects record what is allocated to services and nodes.
var Allocated = allocator.Kinds{Nodes: Nodes, Services: Services, IPAddresses: IPAddresses, ServiceCIDRs: ServiceCIDRs}

// Admitted are the kinds that admission plugins check.
var Admitted = admission.Kinds{
	Namespaces: Namespaces, Nodes: Nodes, Pods: Pods, Services: Services, Events: Events, Ingresses: Ingresses, IngressClasses: IngressClasses,
	PriorityClasses: PriorityClasses, NetworkPolicies: NetworkPolicies,
}

// Options are those of a registry of all kinds.
type Options struct {
	allocator.Cluster
	// Encrypted says that the store encrypts, so that what it holds can be of an earlier configuration.
	Encrypted bool
}

// NewRegistry makes a registry of all kinds, with their allocators and admission plugins.
func NewRegistry(store storage.Interface, o Options) *resource.Registry {
	return resource.New(store, resource.Config{
		Allocators: Allocated.Allocators(o.Cluster),
		Admission: func(r *resource.Registry) []upstream.Interface {
			return Admitted.Plugins(r, o.Cluster, Allocated)
		},
		Encrypted: o.Encrypted,
	}, All())
}

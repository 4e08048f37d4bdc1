package kinds

import (
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// Allocated are the kinds in whose objects it is recorded what services and nodes hold.
var Allocated = allocator.Kinds{Nodes: Nodes, Services: Services, IPAddresses: IPAddresses, ServiceCIDRs: ServiceCIDRs}

// Options are those of a registry of all kinds.
type Options struct {
	allocator.Cluster
	// Encrypted says that the store encrypts, so that what it holds can be of an earlier configuration.
	Encrypted bool
}

// NewRegistry makes a registry of all kinds, with all that goes with their objects.
func NewRegistry(store storage.Interface, o Options) *resource.Registry {
	allocators := Allocated.Allocators(o.Cluster)
	allocators[Ingresses] = giveIngressClass
	return resource.New(store, resource.Config{Allocators: allocators, Accept: acceptsContent, Encrypted: o.Encrypted}, All())
}

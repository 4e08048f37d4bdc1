package resource

import (
	"context"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Config holds what allocation needs to know of the cluster.
type Config struct {
	// ServiceCIDRs are the ranges of service addresses, the first one of the primary family.
	ServiceCIDRs []netip.Prefix
	// PodCIDRs are the ranges that nodes' pod ranges come from: at most one of
	// each family, the primary one first.
	PodCIDRs      []PodRange
	ClusterDomain string
	// APIServers are where others reach the API.
	APIServers []netip.Addr
	// DenyExternalIPs refuses external addresses of services that they do not have already.
	DenyExternalIPs bool
	// LoadBalancerPool are the addresses that the load-balancer loop gives to services of its class; nil: it gives none.
	LoadBalancerPool AddressPool
	// Encrypted says that the store encrypts, so that what it holds can be of an earlier configuration.
	Encrypted bool
}

// AddressPool is a set of addresses.
type AddressPool interface {
	Contains(netip.Addr) bool
	String() string
}

// PodRange is a range that is cut into one of NodeMask bits for every node.
type PodRange struct {
	netip.Prefix
	NodeMask int
}

// ListOptions says what to list, and how fresh it must be.
type ListOptions struct {
	LabelSelector        labels.Selector // nil: everything
	FieldSelector        fields.Selector // nil: everything
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
}

// List is what a list found.
type List struct {
	Objects   []*watchcache.Object
	Revision  int64
	Continue  string
	Remaining *int64
}

// WatchOptions says what to watch, and from where.
type WatchOptions struct {
	LabelSelector        labels.Selector // nil: everything
	FieldSelector        fields.Selector // nil: everything
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	AllowBookmarks       bool
	SendInitialEvents    *bool
}

// CreateOptions are those of a create.
type CreateOptions struct {
	DryRun       bool
	FieldManager string
}

// UpdateOptions are those of an update and of a patch.
type UpdateOptions struct {
	DryRun       bool
	FieldManager string
	// Preconditions that the object must meet, nil for none.
	Preconditions *metav1.Preconditions
	// Admit may refuse what is about to be written over old; nil admits all. obj has what the update cannot change filled in.
	Admit func(obj, old Object) error
}

// Binding puts a pod on a node. UID may be empty.
type Binding struct {
	Namespace, Name string
	UID             string
	Node            string
}

// Registry reads and writes the objects of all kinds. It reads from caches that
// Run keeps, and it writes with guards, so that a stale cache can cost a retry
// but never a lost update.
type Registry struct {
	store  storage.Interface
	config Config
	set    *kindSet
}

// NewRegistry makes a registry of kinds. Reads wait until Run has filled its caches.
func NewRegistry(store storage.Interface, cfg Config, kinds []*Kind) *Registry {
	return &Registry{store: store, config: cfg, set: newKindSet(store, kinds)}
}

// Run keeps the caches current until ctx ends.
func (r *Registry) Run(ctx context.Context) error { return r.set.run(ctx) }

// WaitForSync waits until every cache has been filled.
func (r *Registry) WaitForSync(ctx context.Context) error {
	for _, k := range r.Kinds() {
		if err := r.Cache(k).WaitForSync(ctx); err != nil && r.Serves(k) {
			return fmt.Errorf("wait for the cache of %s: %w", k.Resource, err)
		}
	}
	return nil
}

// Config is what the registry was made with.
func (r *Registry) Config() Config { return r.config }

// Store is the store under the registry, for what is allocated with an object.
func (r *Registry) Store() storage.Interface { return r.store }

// Subscribe calls h with the state of a kind and then with every event, in order.
// h must not block, and it may read the registry's caches.
func (r *Registry) Subscribe(k *Kind, h func(watchcache.Event)) { r.Cache(k).Subscribe(h) }

package resource

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"net/netip"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Config holds what allocation needs to know of the cluster.
type Config struct {
	// ServiceCIDRs are the ranges of service addresses, the first one of the primary family.
	ServiceCIDRs []netip.Prefix
	// PodCIDR is cut into one range of NodeMask bits for every node.
	PodCIDR       netip.Prefix
	NodeMask      int
	ClusterDomain string
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
}

// Binding puts a pod on a node. UID may be empty.
type Binding struct {
	Namespace, Name string
	UID             string
	Node            string
}

// Registry reads and writes the objects of all kinds.
type Registry struct {
	store  storage.Interface
	config Config
	kinds  map[schema.GroupVersionResource]*Kind
}

var errUnwritten = errors.New("not there yet")

func NewRegistry(store storage.Interface, cfg Config, kinds []*Kind) *Registry { return &Registry{} }

// Config is what the registry was made with.
func (r *Registry) Config() Config { return r.config }

// Store is the store under the registry, for what is allocated with an object.
func (r *Registry) Store() storage.Interface                           { return r.store }
func (r *Registry) Run(ctx context.Context) error                      { return errUnwritten }
func (r *Registry) WaitForSync(ctx context.Context) error              { return errUnwritten }
func (r *Registry) Kind(gvr schema.GroupVersionResource) (*Kind, bool) { return nil, false }
func (r *Registry) Kinds() []*Kind                                     { return nil }
func (r *Registry) Cache(k *Kind) *watchcache.Cache                    { return nil }
func (r *Registry) Get(ctx context.Context, k *Kind, ns, name string, minRevision string) (Object, error) {
	return nil, errUnwritten
}
func (r *Registry) List(ctx context.Context, k *Kind, ns string, o ListOptions) (*List, error) {
	return nil, errUnwritten
}
func (r *Registry) Watch(ctx context.Context, k *Kind, ns string, o WatchOptions) (*watchcache.Watcher, error) {
	return nil, errUnwritten
}
func (r *Registry) Create(ctx context.Context, k *Kind, obj Object, o CreateOptions) (Object, error) {
	return nil, errUnwritten
}
func (r *Registry) Update(ctx context.Context, k *Kind, sub string, obj Object, o UpdateOptions) (Object, error) {
	return nil, errUnwritten
}
func (r *Registry) Modify(ctx context.Context, k *Kind, sub, ns, name string, o UpdateOptions, change func(current Object) (Object, error)) (Object, error) {
	return nil, errUnwritten
}
func (r *Registry) Delete(ctx context.Context, k *Kind, ns, name string, o *metav1.DeleteOptions) (Object, bool, error) {
	return nil, false, errUnwritten
}
func (r *Registry) DeleteCollection(ctx context.Context, k *Kind, ns string, o *metav1.DeleteOptions, l ListOptions) (*List, error) {
	return nil, errUnwritten
}
func (r *Registry) Bind(ctx context.Context, bindings []Binding) []error { return nil }
func (r *Registry) Subscribe(k *Kind, h func(watchcache.Event))          {}

// Get reads an object from the cache.
func Get[T Object](ctx context.Context, r *Registry, k *Kind, ns, name string) (t T, err error) {
	return t, errUnwritten
}

// ListAs lists from the cache.
func ListAs[T Object](r *Registry, k *Kind, ns string, sel labels.Selector) []T { return nil }

// ByIndex lists from the cache what an index of the kind holds under value.
func ByIndex[T Object](r *Registry, k *Kind, index, value string) []T { return nil }

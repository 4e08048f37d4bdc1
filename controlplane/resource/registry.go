package resource

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Config says what a registry does beyond the rules of its kinds.
type Config struct {
	// Allocators are those of kinds whose objects hold what must be unique, such as addresses.
	Allocators map[*Kind]Allocator
	// Admission makes the plugins that every change passes, in their order; nil: none.
	Admission func(*Registry) []admission.Interface
	// Encrypted says that the store encrypts, so that what it holds can be of an earlier configuration.
	Encrypted bool
}

// Allocator adds to tx what must be stored, or freed, together with an object; it may set fields of obj, and refuse what only the
// store shows to be wrong. old is nil on create, obj is nil on delete. part is empty, or the subresource that is updated.
type Allocator func(ctx context.Context, r *Registry, tx *Tx, part string, obj, old Object) error

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
	DryRun bool
	// FieldManager is who the fields are recorded for; empty: who acts.
	FieldManager string
	// FieldsTracked says that the object already carries the record of who set its fields, which is to be stored as it is.
	FieldsTracked bool
}

// UpdateOptions are those of an update and of a patch.
type UpdateOptions struct {
	DryRun bool
	// FieldManager and FieldsTracked are as in CreateOptions.
	FieldManager  string
	FieldsTracked bool
	// Preconditions that the object must meet, nil for none.
	Preconditions *metav1.Preconditions
}

// Registry reads and writes the objects of all kinds. It reads from caches that
// Run keeps, and it writes with guards, so that a stale cache can cost a retry
// but never a lost update.
type Registry struct {
	store  storage.Interface
	config Config
	set    *kindSet
	gate   gate
}

// New makes a registry of kinds. Reads wait until Run has filled its caches.
func New(store storage.Interface, cfg Config, kinds []*Kind) *Registry {
	r := &Registry{store: store, config: cfg, set: newKindSet(store, kinds)}
	if cfg.Admission != nil {
		r.gate = newGate(cfg.Admission(r))
	}
	return r
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

// allocate has the kind's allocator, if it has one, add to tx.
func (r *Registry) allocate(ctx context.Context, k *Kind, tx *Tx, part string, obj, old Object) error {
	if allocator := r.config.Allocators[k.Stored()]; allocator != nil {
		return allocator(ctx, r, tx, part, obj, old)
	}
	return nil
}

// Store is the store under the registry, for what is allocated with an object.
func (r *Registry) Store() storage.Interface { return r.store }

// Subscribe calls h with the state of a kind and then with every event, in order.
// h must not block, and it may read the registry's caches.
func (r *Registry) Subscribe(k *Kind, h func(watchcache.Event)) { r.Cache(k).Subscribe(h) }

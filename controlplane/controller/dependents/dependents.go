// Package dependents is shared by the control loops whose objects control others, as a ReplicaSet controls its pods: which objects an owner
// has, with the loop's own writes that its cache does not have yet; adoption and release; creation and deletion. It decides neither how
// many dependents an owner is to have nor which of them are deleted.
package dependents

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// deletionTimeout is how long the cache may take to show a deletion. The object counts again after that, as in Kubernetes.
	deletionTimeout = 5 * time.Minute
	// writeTimeout bounds one write.
	writeTimeout = 10 * time.Second
)

// Owners are the objects that control others.
type Owners struct {
	Kind *resource.Kind
	// Selector selects the dependents that an owner is to have.
	Selector func(owner resource.Object) labels.Selector
}

// Dependents are the objects of one kind that owners of one other kind control.
type Dependents[T resource.Object] struct {
	registry *resource.Registry
	owners   Owners
	kind     *resource.Kind
	clock    clock.PassiveClock
	// view has the objects that an owner of the kind controls, by the owner's UID, and those that nobody controls.
	view *controller.View[T]

	mu sync.Mutex
	// deleting are the objects whose deletion was requested at that time and has not been delivered by the cache. They do not count: a
	// deletion is recorded before it is requested, so that the object is not counted in between.
	deleting map[types.UID]time.Time
}

// New makes the dependents of a loop. They are empty until Observe.
func New[T resource.Object](registry *resource.Registry, owners Owners, kind *resource.Kind, clock clock.PassiveClock) *Dependents[T] {
	return &Dependents[T]{
		registry: registry, owners: owners, kind: kind, clock: clock,
		view:     controller.NewView(func(obj T) []controller.Key { return []controller.Key{groupOf(obj)} }),
		deleting: map[types.UID]time.Time{},
	}
}

// groupOf is named by the controller's UID, or empty for an object that nobody controls.
func groupOf(obj metav1.Object) controller.Key {
	group := controller.Key{Namespace: obj.GetNamespace()}
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		group.Name = string(ref.UID)
	}
	return group
}

// Observe follows the dependents until ctx ends, and calls enqueue with the key of every owner that a change concerns: of the one
// that controls the object, of the one that did before, and for an object that nobody controls, of all that select it.
func (d *Dependents[T]) Observe(ctx context.Context, wg *sync.WaitGroup, enqueue func(controller.Key)) {
	controller.Observe(ctx, wg, d.registry, d.kind, func(old, cur T, revision int64) {
		d.deliver(old, cur, revision)
		d.enqueueOwners(old, cur, enqueue)
	})
}

// OwnerOf returns the reference to the object of a kind that controls obj, nil if none does.
func OwnerOf(obj metav1.Object, kind *resource.Kind) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != kind.GVK.Kind || ref.APIVersion != kind.GVK.GroupVersion().String() {
		return nil
	}
	return ref
}

func absent[T resource.Object](obj T) bool {
	var none T
	return any(obj) == any(none)
}

func (d *Dependents[T]) enqueueOwners(old, cur T, enqueue func(controller.Key)) {
	var before types.UID
	if !absent(old) {
		if ref := OwnerOf(old, d.owners.Kind); ref != nil {
			before = ref.UID
			enqueue(controller.Key{Namespace: old.GetNamespace(), Name: ref.Name})
		}
	}
	if absent(cur) {
		return
	}
	if metav1.GetControllerOfNoCopy(cur) != nil {
		if ref := OwnerOf(cur, d.owners.Kind); ref != nil && ref.UID != before {
			enqueue(controller.Key{Namespace: cur.GetNamespace(), Name: ref.Name})
		}
		return
	}
	for _, owner := range resource.ListAs[resource.Object](d.registry, d.owners.Kind, cur.GetNamespace(), labels.Everything()) {
		if d.owners.Selector(owner).Matches(labels.Set(cur.GetLabels())) {
			enqueue(controller.KeyOf(owner))
		}
	}
}

// deliver takes over a change from the cache. Objects that something else controls are not kept.
func (d *Dependents[T]) deliver(old, cur T, revision int64) {
	foreign := !absent(cur) && metav1.GetControllerOfNoCopy(cur) != nil && OwnerOf(cur, d.owners.Kind) == nil
	switch {
	case !foreign:
		d.view.Deliver(old, cur, absent(cur), revision)
	case !absent(old):
		d.view.Deliver(old, cur, true, revision)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !absent(old) && (absent(cur) || cur.GetUID() != old.GetUID()) {
		delete(d.deleting, old.GetUID())
	}
	if !absent(cur) && cur.GetDeletionTimestamp() != nil {
		delete(d.deleting, cur.GetUID())
	}
}

// Record takes over an object that was read from the store.
func (d *Dependents[T]) Record(obj T) { d.view.Wrote(obj) }

// of returns the objects that owner controls, and those in its namespace that nobody controls, without those whose deletion was
// requested and is not visible yet.
func (d *Dependents[T]) of(owner metav1.Object) (owned, orphans []T) {
	return d.group(controller.Key{Namespace: owner.GetNamespace(), Name: string(owner.GetUID())}),
		d.group(controller.Key{Namespace: owner.GetNamespace()})
}

func (d *Dependents[T]) group(key controller.Key) []T {
	// Held while both are read: deliver changes the view before it ends the wait for a deletion.
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.view.Group(key)
	list := all[:0]
	for _, obj := range all {
		since, deleting := d.deleting[obj.GetUID()]
		if deleting && d.clock.Since(since) > deletionTimeout {
			delete(d.deleting, obj.GetUID())
			deleting = false
		}
		if !deleting {
			list = append(list, obj)
		}
	}
	return list
}

func (d *Dependents[T]) expectDeletion(obj T) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleting[obj.GetUID()] = d.clock.Now()
}

func (d *Dependents[T]) expectNoDeletion(obj T) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.deleting, obj.GetUID())
}

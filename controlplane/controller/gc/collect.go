package gc

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// ownership is the state of the owner that a reference names.
type ownership uint8

const (
	// solid: the owner exists, or its kind is not served here, so that nothing is known of it.
	solid ownership = iota
	// dangling: the owner does not exist.
	dangling
	// waiting: the owner is being deleted and waits for its dependents.
	waiting
)

// syncDependent deletes an object none of whose owners exists, or drops the references to missing owners.
func (c *Controller) syncDependent(ctx context.Context, it item) error {
	if !c.registry.Serves(it.kind) {
		return nil
	}
	obj, err := c.current(ctx, it, "0")
	if obj == nil || err != nil {
		return err
	}
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 || obj.GetDeletionTimestamp() != nil && !slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		return nil
	}
	if obj.GetDeletionTimestamp() != nil {
		return nil // syncOwner sees to its dependents.
	}
	states := map[types.UID]ownership{}
	count := map[ownership]int{}
	for _, ref := range refs {
		s, err := c.ownership(ctx, obj, ref)
		if err != nil {
			return err
		}
		states[ref.UID] = s
		count[s]++
	}
	switch {
	case count[dangling]+count[waiting] == 0:
		return nil
	case count[solid] > 0:
		return c.dropOwners(ctx, it, func(ref metav1.OwnerReference) bool { return states[ref.UID] != solid })
	case count[waiting] > 0 && len(c.dependentsOf(it.uid)) > 0:
		return c.delete(ctx, it, metav1.DeletePropagationForeground)
	}
	return c.delete(ctx, it, metav1.DeletePropagationBackground)
}

// ownership looks up an owner in the cache, and if it is not there, in the store.
func (c *Controller) ownership(ctx context.Context, obj resource.Object, ref metav1.OwnerReference) (ownership, error) {
	k, ok := c.kindOf(ref.APIVersion, ref.Kind)
	if !ok {
		return solid, nil
	}
	it := item{kind: k, key: controller.Key{Name: ref.Name}, uid: ref.UID}
	if k.Namespaced {
		it.key.Namespace = obj.GetNamespace()
	}
	owner, err := c.current(ctx, it, "0")
	if err == nil && owner == nil {
		owner, err = c.current(ctx, it, "")
	}
	switch {
	case err != nil:
		return solid, err
	case owner == nil && !c.registry.Serves(k):
		return solid, nil // withdrawn meanwhile
	case owner == nil:
		return dangling, nil
	case owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

// current reads an object, or returns nil if it was deleted, also if another one has its name now.
func (c *Controller) current(ctx context.Context, it item, minRevision string) (resource.Object, error) {
	obj, err := c.registry.Get(ctx, it.kind, it.key.Namespace, it.key.Name, minRevision)
	if apierrors.IsNotFound(err) || err == nil && obj.GetUID() != it.uid {
		return nil, nil
	}
	return obj, err
}

func (c *Controller) kindOf(apiVersion, kind string) (*resource.Kind, bool) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false
	}
	for _, k := range c.registry.Kinds() {
		// An owner may be named in another version of its group.
		if k.Has(schema.GroupKind{Group: gv.Group, Kind: kind}) {
			return k, true
		}
	}
	return nil, false
}

func (c *Controller) delete(ctx context.Context, it item, policy metav1.DeletionPropagation) error {
	_, _, err := c.registry.Delete(ctx, it.kind, it.key.Namespace, it.key.Name, &metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &it.uid},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (c *Controller) dropOwners(ctx context.Context, it item, drop func(metav1.OwnerReference) bool) error {
	return c.modify(ctx, it, func(obj resource.Object) {
		obj.SetOwnerReferences(slices.DeleteFunc(obj.GetOwnerReferences(), drop))
	})
}

// modify changes a copy of the object, unless it was deleted, also if another one has its name now.
func (c *Controller) modify(ctx context.Context, it item, change func(resource.Object)) error {
	_, err := c.registry.Modify(ctx, it.kind, "", it.key.Namespace, it.key.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != it.uid {
			return current, nil
		}
		obj := current.DeepCopyObject().(resource.Object)
		obj.SetResourceVersion("")
		change(obj)
		return obj, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func waitsForDependents(obj resource.Object) bool {
	f := obj.GetFinalizers()
	return slices.Contains(f, metav1.FinalizerDeleteDependents) || slices.Contains(f, metav1.FinalizerOrphanDependents)
}

// syncOwner does for an object that is being deleted what its finalizers promise.
func (c *Controller) syncOwner(ctx context.Context, it item) error {
	obj, err := c.current(ctx, it, "0")
	if obj == nil || err != nil || obj.GetDeletionTimestamp() == nil {
		return err
	}
	switch {
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return c.orphan(ctx, it)
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return c.deleteDependents(ctx, it)
	}
	return nil
}

// orphan releases all dependents and then the owner.
func (c *Controller) orphan(ctx context.Context, owner item) error {
	dependents, err := c.listDependents(ctx, owner)
	if err != nil {
		return err
	}
	var failures []error
	for _, it := range dependents {
		failures = append(failures, c.dropOwners(ctx, it, func(ref metav1.OwnerReference) bool { return ref.UID == owner.uid }))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return c.removeFinalizer(ctx, owner, metav1.FinalizerOrphanDependents)
}

// deleteDependents deletes all dependents, and removes the owner's finalizer when no dependent blocks its deletion any more.
func (c *Controller) deleteDependents(ctx context.Context, owner item) error {
	dependents, err := c.listDependents(ctx, owner)
	if err != nil {
		return err
	}
	blocked := false
	for _, it := range dependents {
		c.dependents.Add(it)
		obj, err := c.current(ctx, it, "0")
		if err != nil {
			return err
		}
		if obj != nil && blocks(obj, owner.uid) {
			blocked = true
		}
	}
	if blocked {
		return nil // The deletion of the last dependent queues the owner again.
	}
	return c.removeFinalizer(ctx, owner, metav1.FinalizerDeleteDependents)
}

func blocks(obj resource.Object, owner types.UID) bool {
	return slices.ContainsFunc(obj.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && ptr.Deref(ref.BlockOwnerDeletion, false)
	})
}

// listDependents lists from the store, not from the index: a dependent that was created
// just before its owner was deleted must be found. It lists every kind that can have the
// owner, which only deletions that wait for dependents cost.
func (c *Controller) listDependents(ctx context.Context, owner item) ([]item, error) {
	var list []item
	for _, k := range c.registry.Kinds() {
		if k.TTL > 0 || !k.Namespaced && owner.kind.Namespaced {
			continue
		}
		found, err := c.registry.List(ctx, k, owner.key.Namespace, resource.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range found.Objects {
			if slices.ContainsFunc(o.Value().GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == owner.uid }) {
				list = append(list, itemOf(k, o.Value()))
			}
		}
	}
	return list, nil
}

func (c *Controller) removeFinalizer(ctx context.Context, it item, finalizer string) error {
	return c.modify(ctx, it, func(obj resource.Object) {
		obj.SetFinalizers(slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool { return f == finalizer }))
	})
}

package dependents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/resource"
)

// errChanged stops an adoption or a release of an object that is no longer what it was decided for.
var errChanged = errors.New("object changed")

// Claim returns the objects that belong to owner, of those for which counts returns true (nil: all): those that it controls and that
// match its selector, and matching ones that nobody controls, which it adopts. Those that it controls and that no longer match are
// released. An owner that is being deleted neither adopts nor releases.
func (d *Dependents[T]) Claim(ctx context.Context, owner metav1.Object, selector labels.Selector, counts func(T) bool) ([]T, error) {
	owned, orphans := d.of(owner)
	deleted := owner.GetDeletionTimestamp() != nil
	var claimed []T
	var failures []error
	for _, obj := range owned {
		switch {
		case counts != nil && !counts(obj):
		case selector.Matches(labels.Set(obj.GetLabels())):
			claimed = append(claimed, obj)
		case !deleted:
			failures = append(failures, d.release(ctx, owner, selector, obj))
		}
	}
	if deleted {
		return claimed, nil
	}
	mayAdopt := sync.OnceValue(func() error { return d.mayAdopt(ctx, owner) })
	for _, obj := range orphans {
		if counts != nil && !counts(obj) || obj.GetDeletionTimestamp() != nil || !selector.Matches(labels.Set(obj.GetLabels())) {
			continue
		}
		if err := mayAdopt(); err != nil {
			failures = append(failures, fmt.Errorf("can't adopt %s %s/%s (%s): %w", d.kind.GVK.Kind, obj.GetNamespace(), obj.GetName(), obj.GetUID(), err))
			break
		}
		adopted, ok, err := d.adopt(ctx, owner, selector, obj)
		if failures = append(failures, err); ok {
			claimed = append(claimed, adopted)
		}
	}
	return claimed, errors.Join(failures...)
}

// mayAdopt reads the owner from the store, not from the cache: one that has been deleted meanwhile must not adopt objects that its
// deletion has just orphaned.
func (d *Dependents[T]) mayAdopt(ctx context.Context, owner metav1.Object) error {
	fresh, err := d.registry.Get(ctx, d.owners.Kind, owner.GetNamespace(), owner.GetName(), "")
	if err != nil {
		return fmt.Errorf("can't recheck DeletionTimestamp: %w", err)
	}
	if fresh.GetUID() != owner.GetUID() {
		return fmt.Errorf("original %s %s/%s is gone: got uid %s, wanted %s", d.owners.Kind.GVK.Kind, owner.GetNamespace(), owner.GetName(), fresh.GetUID(), owner.GetUID())
	}
	if at := fresh.GetDeletionTimestamp(); at != nil {
		return fmt.Errorf("%s/%s has just been deleted at %v", owner.GetNamespace(), owner.GetName(), at)
	}
	return nil
}

func (d *Dependents[T]) adopt(ctx context.Context, owner metav1.Object, selector labels.Selector, obj T) (adopted T, ok bool, err error) {
	return d.changeOwners(ctx, obj, func(obj T) error {
		if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
			if ref.UID == owner.GetUID() {
				return nil
			}
			return errChanged
		}
		if obj.GetDeletionTimestamp() != nil || !selector.Matches(labels.Set(obj.GetLabels())) {
			return errChanged
		}
		obj.SetOwnerReferences(append(obj.GetOwnerReferences(), *metav1.NewControllerRef(owner, d.owners.Kind.GVK)))
		return nil
	})
}

func (d *Dependents[T]) release(ctx context.Context, owner metav1.Object, selector labels.Selector, obj T) error {
	_, _, err := d.changeOwners(ctx, obj, func(obj T) error {
		if selector.Matches(labels.Set(obj.GetLabels())) {
			return errChanged
		}
		obj.SetOwnerReferences(slices.DeleteFunc(obj.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == owner.GetUID() }))
		return nil
	})
	return err
}

// changeOwners applies change to the object as it is stored now. ok is false without an error if the object is deleted or is no longer what
// the change was decided for: the event of that, which is still to come, queues its owners again.
func (d *Dependents[T]) changeOwners(ctx context.Context, obj T, change func(T) error) (changed T, ok bool, err error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return changed, false, err
	}
	defer cancel()
	written, err := d.registry.Modify(ctx, d.kind, "", obj.GetNamespace(), obj.GetName(), resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != obj.GetUID() {
			return nil, errChanged
		}
		next := current.DeepCopyObject().(T)
		next.SetResourceVersion("")
		return next, change(next)
	})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return changed, false, nil
	}
	if err != nil {
		return changed, false, err
	}
	changed = written.(T)
	d.view.Wrote(changed)
	return changed, true, nil
}

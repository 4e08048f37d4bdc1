package dependents

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// begin returns the context of one write. A write that has begun goes on when the loop's context ends: if it were given up, it could be
// stored after the next leader's loop has counted.
func begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	return ctx, cancel, nil
}

// Create creates a dependent, which counts from then on.
func (d *Dependents[T]) Create(ctx context.Context, obj T) (T, error) {
	return d.write(ctx, func(ctx context.Context) (resource.Object, error) {
		return d.registry.Create(ctx, d.kind, obj, resource.CreateOptions{})
	})
}

// Update writes a dependent if it is still in the state that was decided about; otherwise that is a conflict.
func (d *Dependents[T]) Update(ctx context.Context, obj T) (T, error) {
	return d.write(ctx, func(ctx context.Context) (resource.Object, error) {
		return d.registry.Update(ctx, d.kind, "", obj, resource.UpdateOptions{})
	})
}

func (d *Dependents[T]) write(ctx context.Context, write func(context.Context) (resource.Object, error)) (written T, err error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return written, err
	}
	defer cancel()
	obj, err := write(ctx)
	if err != nil {
		return written, err
	}
	written = obj.(T)
	d.view.Wrote(written)
	return written, nil
}

// Delete deletes a dependent, which does not count from then on, and says whether it did: it is no error if the dependent is deleted
// already, or another has its name.
func (d *Dependents[T]) Delete(ctx context.Context, obj T) (bool, error) {
	uid := obj.GetUID()
	return d.delete(ctx, obj, &metav1.Preconditions{UID: &uid})
}

// DeleteUnchanged deletes a dependent if it is still as the caller has seen it; it is no error if it is not.
func (d *Dependents[T]) DeleteUnchanged(ctx context.Context, obj T) (bool, error) {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	deleted, err := d.delete(ctx, obj, &metav1.Preconditions{UID: &uid, ResourceVersion: &version})
	if apierrors.IsConflict(err) {
		return false, nil
	}
	return deleted, err
}

func (d *Dependents[T]) delete(ctx context.Context, obj T, preconditions *metav1.Preconditions) (bool, error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return false, err
	}
	defer cancel()
	d.expectDeletion(obj)
	_, _, err = d.registry.Delete(ctx, d.kind, obj.GetNamespace(), obj.GetName(), &metav1.DeleteOptions{Preconditions: preconditions})
	if err == nil {
		return true, nil
	}
	if missing, getErr := d.missing(ctx, obj, err); getErr != nil || !missing {
		d.expectNoDeletion(obj)
		return false, err
	}
	// The cache will deliver the deletion, or has done so before it was expected here.
	if known, ok := d.view.Get(controller.KeyOf(obj)); !ok || known.GetUID() != obj.GetUID() {
		d.expectNoDeletion(obj)
	}
	return false, nil
}

// missing says whether an object whose deletion failed is not stored any more.
func (d *Dependents[T]) missing(ctx context.Context, obj T, deletion error) (bool, error) {
	if !apierrors.IsConflict(deletion) {
		return apierrors.IsNotFound(deletion), nil
	}
	stored, err := d.registry.Get(ctx, d.kind, obj.GetNamespace(), obj.GetName(), "")
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && stored.GetUID() != obj.GetUID(), err
}

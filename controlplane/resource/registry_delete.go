package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Delete deletes an object, or marks it as being deleted if its grace period or
// a finalizer asks for that. It returns the last state, and whether the object was
// removed; the state is nil for one that was deleted because it cannot be read.
func (r *Registry) Delete(ctx context.Context, k *Kind, ns, name string, o *metav1.DeleteOptions) (Object, bool, error) {
	if k.stored != nil {
		return r.deleteIn(ctx, k, ns, name, o)
	}
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	if errs := metavalidation.ValidateDeleteOptions(o); len(errs) > 0 {
		return nil, false, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	if err := r.gate.admit(ctx, attributes(ctx, k, "", admission.Delete, ns, name, nil, nil, len(o.DryRun) > 0)); err != nil {
		return nil, false, err
	}
	if err := r.Cache(k).WaitForSync(ctx); err != nil {
		return nil, false, StoreError(ctx, err)
	}
	key := k.Key(ns, name)
	if ptr.Deref(o.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, true, r.deleteUnreadable(ctx, k, key, name, len(o.DryRun) > 0)
	}
	current, cached := r.Cache(k).Get(key)
	for range maxAttempts {
		if current == nil {
			var err error
			if current, err = r.Fresh(ctx, k, key, name); err != nil {
				return nil, false, err
			}
		}
		obj, removed, err := r.tryDelete(ctx, k, current, o)
		if errors.Is(err, errAgain) {
			current, cached = nil, false
			continue
		}
		if !cached || err == nil && obj != current.Value() {
			return obj, removed, err
		}
		// An error, or that there is nothing to do, may be only because the state is old.
		latest, freshErr := r.Fresh(ctx, k, key, name)
		if freshErr != nil {
			return nil, false, freshErr
		}
		if latest.Revision == current.Revision {
			return obj, removed, err
		}
		current, cached = latest, false
	}
	return nil, false, k.conflict(name, errModified)
}

// tryDelete returns the current value itself if there is nothing to do but wait.
func (r *Registry) tryDelete(ctx context.Context, k *Kind, current *watchcache.Object, o *metav1.DeleteOptions) (obj Object, removed bool, err error) {
	if err := k.check(o.Preconditions, current.Value()); err != nil {
		return nil, false, err
	}
	if err := r.gate.validate(ctx, attributes(ctx, k, "", admission.Delete, current.Value().GetNamespace(), current.Value().GetName(), nil, current.Value(), len(o.DryRun) > 0)); err != nil {
		return nil, false, err
	}
	// Only a marked object is written; the last state of a removed one is a copy too.
	obj = current.Value().DeepCopyObject().(Object)
	verdict := k.markDeleted(obj, o)
	if verdict == deletePending {
		return current.Value(), false, nil
	}
	tx := Tx{Guards: []storage.Guard{{Key: current.Key, ModRevision: current.Revision}}}
	if verdict == deleteNow {
		if err := r.allocate(ctx, k, &tx, "", nil, current.Value()); err != nil {
			return nil, false, err
		}
		tx.Ops = append(tx.Ops, storage.Op{Key: current.Key, Delete: true})
	} else {
		value, err := k.Encode(obj)
		if err != nil {
			return nil, false, apierrors.NewInternalError(err)
		}
		tx.Ops = append(tx.Ops, storage.Op{Key: current.Key, Value: value, TTL: k.TTL})
	}
	removed = verdict == deleteNow
	if len(o.DryRun) > 0 {
		return obj, removed, nil
	}
	revision, err := r.store.Commit(ctx, tx.Guards, tx.Ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		if err := r.catchUp(ctx, conflict); err != nil {
			return nil, false, err
		}
		return nil, false, errAgain
	}
	if err != nil {
		return nil, false, StoreError(ctx, err)
	}
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return obj, removed, nil
}

// deletion is the result of a delete request.
type deletion uint8

const (
	deleteNow     deletion = iota // nothing to wait for
	deleteMarked                  // the object was changed and must be written
	deletePending                 // it is being deleted already, and nothing changes
)

// markDeleted changes obj as the deletion requires.
func (k *Kind) markDeleted(obj Object, o *metav1.DeleteOptions) deletion {
	grace, graceful, pending := k.grace(obj, o)
	if pending {
		return deletePending
	}
	finalizers := k.finalizersFor(obj, o)
	changed := !slices.Equal(obj.GetFinalizers(), finalizers)
	obj.SetFinalizers(finalizers)
	if !k.awaited(obj) && (!graceful || grace == 0) {
		return deleteNow
	}
	first := obj.GetDeletionTimestamp() == nil
	if first && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if graceful {
		shorten(obj, grace)
		return deleteMarked
	}
	if first {
		t := now()
		obj.SetDeletionTimestamp(&t)
	}
	if k.MarkDeleted != nil {
		changed = k.MarkDeleted(obj) || changed
	} else if given := obj.GetDeletionGracePeriodSeconds(); given == nil || *given != 0 {
		changed = true
		obj.SetDeletionGracePeriodSeconds(new(int64))
	}
	if !first && !changed {
		return deletePending
	}
	return deleteMarked
}

// shorten sets a grace period and when it ends, counted from when the deletion was first asked for.
func shorten(obj Object, grace int64) {
	asked := time.Now()
	if t := obj.GetDeletionTimestamp(); t != nil {
		asked = t.Time
		if before := obj.GetDeletionGracePeriodSeconds(); before != nil {
			asked = asked.Add(-time.Duration(*before) * time.Second)
		}
	}
	ends := metav1.NewTime(asked.Add(time.Duration(grace) * time.Second).Truncate(time.Second))
	obj.SetDeletionTimestamp(&ends)
	obj.SetDeletionGracePeriodSeconds(&grace)
}

// grace returns how long the deletion waits, whether it waits at all, and whether it is
// already pending: for an object that is being deleted the time can only become shorter.
func (k *Kind) grace(obj Object, o *metav1.DeleteOptions) (seconds int64, graceful, pending bool) {
	if k.GracePeriod == nil {
		return 0, false, false
	}
	if obj.GetDeletionTimestamp() == nil {
		seconds, graceful = k.GracePeriod(obj, o)
		return seconds, graceful, false
	}
	given := obj.GetDeletionGracePeriodSeconds()
	switch {
	case given == nil:
		return 0, false, false
	case o.GracePeriodSeconds == nil:
		return 0, false, true
	}
	seconds = *o.GracePeriodSeconds
	if seconds < 0 {
		seconds = 1 // as Kubernetes reads it
	}
	return seconds, true, seconds >= *given
}

// finalizersFor are the object's finalizers with those that the propagation policy asks for.
func (k *Kind) finalizersFor(obj Object, o *metav1.DeleteOptions) []string {
	have := obj.GetFinalizers()
	orphan := slices.Contains(have, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(have, metav1.FinalizerDeleteDependents)
	switch {
	case o.OrphanDependents != nil:
		orphan, foreground = *o.OrphanDependents, false
	case o.PropagationPolicy != nil:
		orphan = *o.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *o.PropagationPolicy == metav1.DeletePropagationForeground
	case !orphan && !foreground:
		orphan = k.OrphanByDefault
	}
	var finalizers []string
	for _, f := range have {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			finalizers = append(finalizers, f)
		}
	}
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	return finalizers
}

// deleteWorkers is how many objects of a collection are deleted at a time, so
// that etcd can sync them to disk together.
const deleteWorkers = 16

// DeleteCollection deletes the objects that a list finds, and returns them.
func (r *Registry) DeleteCollection(ctx context.Context, k *Kind, ns string, o *metav1.DeleteOptions, l ListOptions) (*List, error) {
	if o != nil && o.Preconditions != nil && o.Preconditions.UID != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a UID precondition cannot hold for a collection of %s", k.Resource))
	}
	if o != nil && ptr.Deref(o.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", field.ErrorList{
			field.Invalid(field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential"), true, "is not allowed with DELETECOLLECTION, try again after removing the option"),
		})
	}
	list, err := r.List(ctx, k, ns, l)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteWorkers)
	for _, found := range list.Objects {
		group.Go(func() error {
			obj := found.Value()
			if _, _, err := r.Delete(ctx, k, obj.GetNamespace(), obj.GetName(), o); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return list, nil
}

package resource

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// ApplyOptions are those of a server-side apply.
type ApplyOptions struct {
	DryRun bool
	// FieldManager is who applies. It must not be empty.
	FieldManager string
	// Force takes over fields that other managers have set to other values; without it they are a conflict.
	Force bool
	// MayCreate returns an error if the caller may not create the object; nil: everybody may.
	MayCreate func() error
}

// Apply merges the fields that a manager applies, of an object or of a part of it, into the stored object, and removes those that the
// manager applied earlier and that no other manager owns. A missing object is created. patch is not changed.
func (r *Registry) Apply(ctx context.Context, k *Kind, part, ns, name string, patch *unstructured.Unstructured, o ApplyOptions) (obj Object, created bool, err error) {
	update := UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldsTracked: true}
	for range maxAttempts {
		obj, err = r.Modify(ctx, k, part, ns, name, update, func(current Object) (Object, error) {
			return k.apply(part, current, patch, o)
		})
		if part != "" || !apierrors.IsNotFound(err) {
			return obj, false, err
		}
		if obj, err = r.applyNew(ctx, k, patch, o); !apierrors.IsAlreadyExists(err) {
			return obj, true, err
		}
	}
	return nil, false, k.conflict(name, errModified)
}

func (r *Registry) applyNew(ctx context.Context, k *Kind, patch *unstructured.Unstructured, o ApplyOptions) (Object, error) {
	if uid := patch.GetUID(); uid != "" {
		return nil, k.conflict(patch.GetName(), fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if o.MayCreate != nil {
		if err := o.MayCreate(); err != nil {
			return nil, err
		}
	}
	empty := k.New()
	empty.GetObjectKind().SetGroupVersionKind(k.GVK)
	obj, err := k.apply("", empty, patch, o)
	if err != nil {
		return nil, err
	}
	return r.Create(ctx, k, obj, CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldsTracked: true})
}

// apply returns the object that live becomes. It carries the record of who set what.
func (k *Kind) apply(part string, live Object, patch *unstructured.Unstructured, o ApplyOptions) (Object, error) {
	fields, err := k.fieldManager(part)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if live.GetUID() != "" && !tracked(live) {
		live = k.firstRecord(live)
	}
	applied, err := fields.Apply(live, patch.DeepCopy(), o.FieldManager, o.Force)
	if err != nil {
		return nil, applyError(err)
	}
	obj, ok := applied.(Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("applying made a %T", applied))
	}
	return obj, nil
}

// Managers of the fields that an object had before it was first applied: upstream's name for all of them, and kubectl's for those that were
// applied by the client.
const (
	beforeFirstApply = "before-first-apply"
	clientSideApply  = "kubectl-client-side-apply"
)

// firstRecord separates, for an object that was not tracked, what kubectl has applied on the client side from what others set.
// kubectl takes over all that the owner of its annotation has when it begins to apply on the server, and what it does not apply
// itself is removed then: that must not include labels, finalizers and status that others set. Objects without the annotation stay as
// they are.
func (k *Kind) firstRecord(live Object) Object {
	text, ok := live.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	if !ok {
		return live
	}
	last := &unstructured.Unstructured{}
	if json.Unmarshal([]byte(text), &last.Object) != nil || last.GroupVersionKind() != k.GVK {
		return live
	}
	theirs, err := k.setByClient(last, live)
	if err != nil {
		return live
	}
	theirs.Insert(fieldpath.MakePathOrDie("metadata", "annotations"))
	theirs.Insert(fieldpath.MakePathOrDie("metadata", "annotations", corev1.LastAppliedConfigAnnotation))
	copied := live.DeepCopyObject().(Object)
	copied.SetUID("") // so that all of it counts as new
	copied.GetObjectKind().SetGroupVersionKind(k.GVK)
	empty := k.New()
	empty.GetObjectKind().SetGroupVersionKind(k.GVK)
	fields, err := k.fieldManager("")
	if err != nil {
		return live
	}
	if _, err = fields.Update(empty, copied, beforeFirstApply); err != nil || len(copied.GetManagedFields()) != 1 {
		return live
	}
	entry := copied.GetManagedFields()[0]
	all := fieldpath.NewSet()
	if err := all.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
		return live
	}
	copied.SetUID(live.GetUID())
	copied.SetManagedFields(append(
		entryOf(entry, clientSideApply, all.Intersection(theirs)), entryOf(entry, beforeFirstApply, all.Difference(theirs))...))
	return copied
}

// setByClient returns the fields that a client applied, defaults included, and that still have the same values.
func (k *Kind) setByClient(last *unstructured.Unstructured, live Object) (*fieldpath.Set, error) {
	t := fieldTypes{gvk: k.GVK, new: func() runtime.Object { return k.New() }}
	applied, err := t.ConvertToVersion(last, k.GVK.GroupVersion())
	if err != nil {
		return nil, err
	}
	if k.Default != nil {
		k.Default(applied.(Object))
	}
	now, err := t.ConvertToVersion(live, k.GVK.GroupVersion())
	if err != nil {
		return nil, err
	}
	then, err := t.converter().ObjectToTyped(applied, typed.AllowDuplicates)
	if err != nil {
		return nil, err
	}
	current, err := t.converter().ObjectToTyped(now, typed.AllowDuplicates)
	if err != nil {
		return nil, err
	}
	empty, err := t.New(k.GVK)
	if err != nil {
		return nil, err
	}
	nothing, err := t.converter().ObjectToTyped(empty)
	if err != nil {
		return nil, err
	}
	made, err := nothing.Compare(then)
	if err != nil {
		return nil, err
	}
	since, err := then.Compare(current)
	if err != nil {
		return nil, err
	}
	return made.Added.Union(made.Modified).Difference(since.Modified), nil
}

// entryOf returns entry for another manager and set of fields, none if that set is empty.
func entryOf(entry metav1.ManagedFieldsEntry, manager string, set *fieldpath.Set) []metav1.ManagedFieldsEntry {
	raw, err := set.ToJSON()
	if err != nil || set.Empty() {
		return nil
	}
	entry.Manager, entry.FieldsV1 = manager, metav1.NewFieldsV1(string(raw))
	return []metav1.ManagedFieldsEntry{entry}
}

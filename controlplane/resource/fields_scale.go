package resource

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// ScaleFields keeps who set the replicas of an object when its scale is written: the record of the object as the scale shows it,
// and back again.
type ScaleFields struct {
	handler *managedfields.ScaleHandler
	entries []metav1.ManagedFieldsEntry
	tracked bool
}

// ScaleFields are those of the current state of an object.
func (k *Kind) ScaleFields(current Object) (*ScaleFields, error) {
	gv := k.GVK.GroupVersion()
	f := &ScaleFields{tracked: tracked(current), handler: managedfields.NewScaleHandler(current.GetManagedFields(), gv,
		managedfields.ResourcePathMappings{gv.String(): fieldpath.MakePathOrDie("spec", "replicas")})}
	var err error
	if f.entries, err = f.handler.ToSubresource(); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return f, nil
}

// Update records that a manager has changed the scale from live to scale, if the object is tracked. The result is the record of
// the object.
func (f *ScaleFields) Update(live, scale *autoscalingv1.Scale, manager string) ([]metav1.ManagedFieldsEntry, error) {
	if !f.tracked {
		return nil, nil
	}
	fields, err := scaleManager()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	live, scale = live.DeepCopy(), scale.DeepCopy()
	live.SetManagedFields(f.entries)
	scale.SetManagedFields(nil)
	scale.SetGroupVersionKind(ScaleKind)
	fields.UpdateNoErrors(live, scale, manager)
	return f.parent(scale)
}

// Apply makes the scale that live becomes, and the record of the object.
func (f *ScaleFields) Apply(live *autoscalingv1.Scale, patch *unstructured.Unstructured, o ApplyOptions) (*autoscalingv1.Scale, []metav1.ManagedFieldsEntry, error) {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patch.Object, &autoscalingv1.Scale{}, true); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	fields, err := scaleManager()
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	live = live.DeepCopy()
	live.SetManagedFields(f.entries)
	applied, err := fields.Apply(live, patch.DeepCopy(), o.FieldManager, o.Force)
	if err != nil {
		return nil, nil, applyError(err)
	}
	scale := applied.(*autoscalingv1.Scale)
	entries, err := f.parent(scale)
	return scale, entries, err
}

func (f *ScaleFields) parent(scale *autoscalingv1.Scale) ([]metav1.ManagedFieldsEntry, error) {
	entries, err := f.handler.ToParent(scale.GetManagedFields())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return entries, nil
}

package resource

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
)

// ReplicaSets is the kind of apps/v1 ReplicaSet.
var ReplicaSets = &Kind{
	GVK: appsV1.WithKind("ReplicaSet"), Resource: "replicasets", Singular: "replicaset",
	ShortNames: []string{"rs"}, Categories: []string{"all"},
	Namespaced: true, Verbs: allVerbs,
	New:     func() Object { return &appsv1.ReplicaSet{} },
	NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(set *apps.ReplicaSet) {
		set.Status = apps.ReplicaSetStatus{}
		podapi.DropDisabledTemplateFields(&set.Spec.Template, nil)
	}),
	ValidateCreate: validateCreate(func(set *apps.ReplicaSet) field.ErrorList {
		return validation.ValidateReplicaSet(set, podapi.GetValidationOptionsFromPodTemplate(&set.Spec.Template, nil))
	}),
	PrepareForUpdate: prepareUpdate(func(set, old *apps.ReplicaSet) {
		set.Status = old.Status
		podapi.DropDisabledTemplateFields(&set.Spec.Template, &old.Spec.Template)
	}),
	ValidateUpdate: validateUpdate(func(set, old *apps.ReplicaSet) field.ErrorList {
		errs := validation.ValidateReplicaSetUpdate(set, old, podapi.GetValidationOptionsFromPodTemplate(&set.Spec.Template, &old.Spec.Template))
		return append(errs, immutable(set.Spec.Selector, old.Spec.Selector)...)
	}),
	SpecChanged: func(obj, old Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*appsv1.ReplicaSet).Spec, old.(*appsv1.ReplicaSet).Spec)
	},
	Status: &Subresource{
		PrepareForUpdate: prepareUpdate(func(set, old *apps.ReplicaSet) { set.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateReplicaSetStatusUpdate, "status"),
	},
	Warnings: func(obj Object) []string { return templateWarnings(&internal[apps.ReplicaSet](obj).Spec.Template) },
	Scale: &ScaleAccess{
		Replicas:    func(obj Object) int32 { return atLeastOne(obj.(*appsv1.ReplicaSet).Spec.Replicas) },
		SetReplicas: func(obj Object, replicas int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &replicas },
		Current:     func(obj Object) int32 { return obj.(*appsv1.ReplicaSet).Status.Replicas },
		Selector:    func(obj Object) string { return metav1.FormatLabelSelector(obj.(*appsv1.ReplicaSet).Spec.Selector) },
	},
}

// atLeastOne is what a number of replicas that nobody has given means.
func atLeastOne(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// immutable refuses another selector: pods that the old one matched would be nobody's.
func immutable(selector, old *metav1.LabelSelector) field.ErrorList {
	if apiequality.Semantic.DeepEqual(selector, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "selector"), selector, "field is immutable")}
}

func templateWarnings(template *core.PodTemplateSpec) []string {
	return podapi.GetWarningsForPodTemplate(context.Background(), field.NewPath("spec", "template"), template, nil)
}

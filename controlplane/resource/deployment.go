package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
)

// Deployments is the kind of apps/v1 Deployment.
var Deployments = &Kind{
	GVK: appsV1.WithKind("Deployment"), Resource: "deployments", Singular: "deployment",
	ShortNames: []string{"deploy"}, Categories: []string{"all"},
	Namespaced: true, Verbs: allVerbs,
	New:     func() Object { return &appsv1.Deployment{} },
	NewList: func() runtime.Object { return &appsv1.DeploymentList{} },

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(deployment *apps.Deployment) {
		deployment.Status = apps.DeploymentStatus{}
		podapi.DropDisabledTemplateFields(&deployment.Spec.Template, nil)
	}),
	ValidateCreate: validateCreate(func(deployment *apps.Deployment) field.ErrorList {
		return validation.ValidateDeployment(deployment, podapi.GetValidationOptionsFromPodTemplate(&deployment.Spec.Template, nil))
	}),
	PrepareForUpdate: prepareUpdate(func(deployment, old *apps.Deployment) {
		deployment.Status = old.Status
		podapi.DropDisabledTemplateFields(&deployment.Spec.Template, &old.Spec.Template)
	}),
	ValidateUpdate: validateUpdate(func(deployment, old *apps.Deployment) field.ErrorList {
		errs := validation.ValidateDeploymentUpdate(deployment, old,
			podapi.GetValidationOptionsFromPodTemplate(&deployment.Spec.Template, &old.Spec.Template))
		return append(errs, immutable(deployment.Spec.Selector, old.Spec.Selector)...)
	}),
	// Annotations are handed on to the newest ReplicaSet, which makes them something to observe.
	SpecChanged: func(obj, old Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*appsv1.Deployment).Spec, old.(*appsv1.Deployment).Spec) ||
			!apiequality.Semantic.DeepEqual(obj.GetAnnotations(), old.GetAnnotations())
	},
	Status: &Subresource{
		PrepareForUpdate: prepareUpdate(func(deployment, old *apps.Deployment) {
			deployment.Spec = old.Spec
			deployment.Labels = old.Labels
		}),
		Validate: validateUpdate(validation.ValidateDeploymentStatusUpdate, "status"),
	},
	Warnings: func(obj Object) []string { return templateWarnings(&internal[apps.Deployment](obj).Spec.Template) },
	Scale: &ScaleAccess{
		Replicas:    func(obj Object) int32 { return atLeastOne(obj.(*appsv1.Deployment).Spec.Replicas) },
		SetReplicas: func(obj Object, replicas int32) { obj.(*appsv1.Deployment).Spec.Replicas = &replicas },
		Current:     func(obj Object) int32 { return obj.(*appsv1.Deployment).Status.Replicas },
		Selector:    func(obj Object) string { return metav1.FormatLabelSelector(obj.(*appsv1.Deployment).Spec.Selector) },
	},
}

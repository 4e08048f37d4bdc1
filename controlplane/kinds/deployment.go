package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/controlplane/resource"
)

// Deployments is the kind of apps/v1 Deployment.
var Deployments = workload[apps.Deployment]{
	template:       func(d *apps.Deployment) *core.PodTemplateSpec { return &d.Spec.Template },
	selector:       func(d *apps.Deployment) *metav1.LabelSelector { return d.Spec.Selector },
	keepStatus:     func(d, old *apps.Deployment) { d.Status = old.Status },
	validate:       validation.ValidateDeployment,
	validateUpdate: validation.ValidateDeploymentUpdate,
}.rules(&resource.Kind{
	GVK: appsV1.WithKind("Deployment"), Resource: "deployments", Singular: "deployment",
	ShortNames: []string{"deploy"},
	New:        func() resource.Object { return &appsv1.Deployment{} },
	NewList:    func() runtime.Object { return &appsv1.DeploymentList{} },
	Absence:    resource.AbsenceDecides,
	// Annotations are handed on to the newest ReplicaSet, which makes them something to observe.
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*appsv1.Deployment).Spec, old.(*appsv1.Deployment).Spec) ||
			!apiequality.Semantic.DeepEqual(obj.GetAnnotations(), old.GetAnnotations())
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(deployment, old *apps.Deployment) {
			deployment.Spec = old.Spec
			deployment.Labels = old.Labels
		}),
		Validate:    validateUpdate(validation.ValidateDeploymentStatusUpdate, "status"),
		ResetFields: []fieldpath.Path{fieldpath.MakePathOrDie("metadata", "labels")},
	},
	Scale: &resource.ScaleAccess{
		Replicas:    func(obj resource.Object) int32 { return atLeastOne(obj.(*appsv1.Deployment).Spec.Replicas) },
		SetReplicas: func(obj resource.Object, replicas int32) { obj.(*appsv1.Deployment).Spec.Replicas = &replicas },
		Current:     func(obj resource.Object) int32 { return obj.(*appsv1.Deployment).Status.Replicas },
		Selector: func(obj resource.Object) string {
			return metav1.FormatLabelSelector(obj.(*appsv1.Deployment).Spec.Selector)
		},
	},
})

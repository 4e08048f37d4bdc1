package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/skep-io/skep/controlplane/resource"
)

// ReplicaSets is the kind of apps/v1 ReplicaSet.
var ReplicaSets = workload[apps.ReplicaSet]{
	template:       func(set *apps.ReplicaSet) *core.PodTemplateSpec { return &set.Spec.Template },
	selector:       func(set *apps.ReplicaSet) *metav1.LabelSelector { return set.Spec.Selector },
	keepStatus:     func(set, old *apps.ReplicaSet) { set.Status = old.Status },
	validate:       validation.ValidateReplicaSet,
	validateUpdate: validation.ValidateReplicaSetUpdate,
}.rules(&resource.Kind{
	GVK: appsV1.WithKind("ReplicaSet"), Resource: "replicasets", Singular: "replicaset",
	ShortNames: []string{"rs"},
	New:        func() resource.Object { return &appsv1.ReplicaSet{} },
	NewList:    func() runtime.Object { return &appsv1.ReplicaSetList{} },
	Absence:    resource.AbsenceDecides,
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*appsv1.ReplicaSet).Spec, old.(*appsv1.ReplicaSet).Spec)
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(set, old *apps.ReplicaSet) { set.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateReplicaSetStatusUpdate, "status"),
	},
	Scale: &resource.ScaleAccess{
		Replicas:    func(obj resource.Object) int32 { return atLeastOne(obj.(*appsv1.ReplicaSet).Spec.Replicas) },
		SetReplicas: func(obj resource.Object, replicas int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &replicas },
		Current:     func(obj resource.Object) int32 { return obj.(*appsv1.ReplicaSet).Status.Replicas },
		Selector: func(obj resource.Object) string {
			return metav1.FormatLabelSelector(obj.(*appsv1.ReplicaSet).Spec.Selector)
		},
	},
})

package kinds

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// ReplicationControllers is the kind of v1 ReplicationController.
var ReplicationControllers = &resource.Kind{
	GVK: coreV1.WithKind("ReplicationController"), Resource: "replicationcontrollers", Singular: "replicationcontroller",
	ShortNames: []string{"rc"}, Categories: []string{"all"},
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.ReplicationController{} },
	NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
	Absence: resource.AbsenceDecides,
	Path:    "controllers",

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(rc *core.ReplicationController) {
		rc.Status = core.ReplicationControllerStatus{}
		podapi.DropDisabledTemplateFields(rc.Spec.Template, nil)
	}),
	ValidateCreate: validateCreate(func(rc *core.ReplicationController) field.ErrorList {
		return validation.ValidateReplicationController(rc, podapi.GetValidationOptionsFromPodTemplate(rc.Spec.Template, nil))
	}),
	PrepareForUpdate: prepareUpdate(func(rc, old *core.ReplicationController) {
		rc.Status = old.Status
		podapi.DropDisabledTemplateFields(rc.Spec.Template, old.Spec.Template)
	}),
	ValidateUpdate: validateUpdate(func(rc, old *core.ReplicationController) field.ErrorList {
		return validation.ValidateReplicationControllerUpdate(rc, old,
			podapi.GetValidationOptionsFromPodTemplate(rc.Spec.Template, old.Spec.Template))
	}),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*corev1.ReplicationController).Spec, old.(*corev1.ReplicationController).Spec)
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(rc, old *core.ReplicationController) { rc.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateReplicationControllerStatusUpdate, "status"),
	},
	Warnings: replicationControllerWarnings,
	Fields: func(obj resource.Object) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
	},
	OrphanByDefault: true, // as v1 has had it since before there was garbage collection
	Scale: &resource.ScaleAccess{
		Replicas: func(obj resource.Object) int32 {
			if replicas := obj.(*corev1.ReplicationController).Spec.Replicas; replicas != nil {
				return *replicas
			}
			return 1
		},
		SetReplicas: func(obj resource.Object, replicas int32) {
			obj.(*corev1.ReplicationController).Spec.Replicas = &replicas
		},
		Current: func(obj resource.Object) int32 { return obj.(*corev1.ReplicationController).Status.Replicas },
		Selector: func(obj resource.Object) string {
			return labels.SelectorFromSet(obj.(*corev1.ReplicationController).Spec.Selector).String()
		},
	},
}

func replicationControllerWarnings(obj resource.Object) []string {
	var warnings []string
	if msgs := utilvalidation.IsDNS1123Label(obj.GetName()); len(msgs) != 0 {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	rc := scheme.Internal[core.ReplicationController](obj)
	return append(warnings, podapi.GetWarningsForPodTemplate(context.Background(),
		field.NewPath("spec", "template"), rc.Spec.Template, nil)...)
}

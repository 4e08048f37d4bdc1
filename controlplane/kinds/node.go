package kinds

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Nodes is the kind of v1 Node. A node may bring its status with its creation.
var Nodes = &resource.Kind{
	GVK: coreV1.WithKind("Node"), Resource: "nodes", Singular: "node",
	ShortNames: []string{"no"}, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Node{} },
	NewList: func() runtime.Object { return &corev1.NodeList{} },
	Absence: resource.AbsenceDecides,
	Path:    "minions",

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(node *core.Node) {
		node.Spec.ConfigSource = nil
		node.Status.Config = nil
		node.Spec.PodPreemptionPolicy = nil
	}),
	ValidateCreate: validateCreate(validation.ValidateNode),
	PrepareForUpdate: prepareUpdate(func(node, old *core.Node) {
		node.Status = old.Status
		if old.Spec.ConfigSource == nil {
			node.Spec.ConfigSource = nil
		}
		if old.Spec.PodPreemptionPolicy == nil {
			node.Spec.PodPreemptionPolicy = nil
		}
	}),
	ValidateUpdate: validateUpdate(func(node, old *core.Node) field.ErrorList {
		return append(validation.ValidateNode(node), validation.ValidateNodeUpdate(node, old)...)
	}),
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(node, old *core.Node) {
			node.Spec = old.Spec
			if old.Status.Config == nil {
				node.Status.Config = nil
			}
		}),
		Validate: validateUpdate(validation.ValidateNodeUpdate, "status"),
	},
	Subresources: []resource.Subresource{proxied("NodeProxyOptions", func() runtime.Object { return &corev1.NodeProxyOptions{} })},
	Warnings:     nodeWarnings,
	Fields: func(obj resource.Object) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(obj.(*corev1.Node).Spec.Unschedulable)}
	},
}

func nodeWarnings(obj resource.Object) []string {
	node := obj.(*corev1.Node)
	var warnings []string
	if node.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if node.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range node.Spec.PodCIDRs {
		warnings = append(warnings, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return warnings
}

package kinds

import (
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// NetworkPolicies is the kind of networking.k8s.io/v1 NetworkPolicy.
var NetworkPolicies = &resource.Kind{
	GVK: networkingV1.WithKind("NetworkPolicy"), Resource: "networkpolicies", Singular: "networkpolicy",
	ShortNames: []string{"netpol"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &networkingv1.NetworkPolicy{} },
	NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Absence: resource.AbsenceIgnored,

	Default: setDefaults,
	ValidateCreate: validateCreate(func(policy *networking.NetworkPolicy) field.ErrorList {
		return validation.ValidateNetworkPolicy(policy, validation.ValidationOptionsForNetworking(policy, nil))
	}),
	ValidateUpdate: validateUpdate(func(policy, old *networking.NetworkPolicy) field.ErrorList {
		return validation.ValidateNetworkPolicyUpdate(policy, old, validation.ValidationOptionsForNetworking(policy, old))
	}),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*networkingv1.NetworkPolicy).Spec, old.(*networkingv1.NetworkPolicy).Spec)
	},
	Warnings: networkPolicyWarnings,
}

func networkPolicyWarnings(obj resource.Object) []string {
	spec := &obj.(*networkingv1.NetworkPolicy).Spec
	var warnings []string
	warn := func(path *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for i := range peers {
			block := peers[i].IPBlock
			if block == nil {
				continue
			}
			at := path.Index(i).Child("ipBlock")
			warnings = append(warnings, utilvalidation.GetWarningsForCIDR(at.Child("cidr"), block.CIDR)...)
			for j, except := range block.Except {
				warnings = append(warnings, utilvalidation.GetWarningsForCIDR(at.Child("except").Index(j), except)...)
			}
		}
	}
	for i := range spec.Ingress {
		warn(field.NewPath("spec", "ingress").Index(i).Child("from"), spec.Ingress[i].From)
	}
	for i := range spec.Egress {
		warn(field.NewPath("spec", "egress").Index(i).Child("to"), spec.Egress[i].To)
	}
	return warnings
}

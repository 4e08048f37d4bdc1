package kinds

import (
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/apis/policy/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// PodDisruptionBudgets is the kind of policy/v1 PodDisruptionBudget: how many of the pods that it selects must stay when pods are evicted. The
// disruption loop keeps its status, an eviction asks it, and preemption prefers to keep to it.
var PodDisruptionBudgets = &resource.Kind{
	GVK: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget",
	ShortNames: []string{"pdb"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &policyv1.PodDisruptionBudget{} },
	NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	// Without a budget that is stored, pods could be evicted or preempted that it keeps.
	Absence: resource.AbsenceDecides,

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(pdb *policy.PodDisruptionBudget) {
		pdb.Status = policy.PodDisruptionBudgetStatus{}
		stripOldLabel(pdb, nil)
	}),
	ValidateCreate: validateCreate(func(pdb *policy.PodDisruptionBudget) field.ErrorList {
		return validation.ValidatePodDisruptionBudget(pdb, validation.PodDisruptionBudgetValidationOptions{})
	}),
	PrepareForUpdate: prepareUpdate(func(pdb, old *policy.PodDisruptionBudget) {
		pdb.Status = old.Status
		stripOldLabel(pdb, old)
	}),
	ValidateUpdate: validateUpdate(func(pdb, old *policy.PodDisruptionBudget) field.ErrorList {
		invalidBefore := old.Spec.Selector != nil && len(metavalidation.ValidateLabelSelector(old.Spec.Selector, metavalidation.LabelSelectorValidationOptions{}, nil)) > 0
		return validation.ValidatePodDisruptionBudget(pdb, validation.PodDisruptionBudgetValidationOptions{AllowInvalidLabelValueInSelector: invalidBefore})
	}),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*policyv1.PodDisruptionBudget).Spec, old.(*policyv1.PodDisruptionBudget).Spec)
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(pdb, old *policy.PodDisruptionBudget) { pdb.Spec = old.Spec }),
		Validate: validateUpdate(func(pdb, old *policy.PodDisruptionBudget) field.ErrorList {
			return validation.ValidatePodDisruptionBudgetStatusUpdate(pdb.Status, old.Status, field.NewPath("status"), policyv1.SchemeGroupVersion)
		}, "status"),
	},
}

// stripOldLabel removes the label by which policy/v1beta1 meant all pods or none from a selector that says more than that.
func stripOldLabel(pdb, old *policy.PodDisruptionBudget) {
	same := func(a, b *metav1.LabelSelector) bool { return apiequality.Semantic.DeepEqual(a, b) }
	if old != nil && same(old.Spec.Selector, pdb.Spec.Selector) ||
		same(pdb.Spec.Selector, policy.NonV1beta1MatchNoneSelector) || same(pdb.Spec.Selector, policy.NonV1beta1MatchAllSelector) {
		return
	}
	policy.StripPDBV1beta1Label(pdb.Spec.Selector)
}

package kinds

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/coordination"
	"k8s.io/kubernetes/pkg/apis/coordination/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Leases is the kind of coordination.k8s.io/v1 Lease.
var Leases = &resource.Kind{
	GVK: coordinationV1.WithKind("Lease"), Resource: "leases", Singular: "lease",
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &coordinationv1.Lease{} },
	NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
	Absence: resource.AbsenceDecides,

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(lease *coordination.Lease) {
		lease.Spec.Strategy = nil
		lease.Spec.PreferredHolder = nil
	}),
	ValidateCreate: validateCreate(validation.ValidateLease),
	PrepareForUpdate: prepareUpdate(func(lease, old *coordination.Lease) {
		if old.Spec.Strategy == nil {
			lease.Spec.Strategy = nil
		}
		if old.Spec.PreferredHolder == nil {
			lease.Spec.PreferredHolder = nil
		}
	}),
	ValidateUpdate: validateUpdate(validation.ValidateLeaseUpdate),
}

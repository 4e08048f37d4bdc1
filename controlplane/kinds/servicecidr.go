package kinds

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/resource"
)

// ServiceCIDRs is the kind of networking.k8s.io/v1 ServiceCIDR: ranges that
// service addresses may come from.
var ServiceCIDRs = &resource.Kind{
	GVK: networkingV1.WithKind("ServiceCIDR"), Resource: "servicecidrs", Singular: "servicecidr",
	Verbs:   allVerbs,
	New:     func() resource.Object { return &networkingv1.ServiceCIDR{} },
	NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
	Absence: resource.AbsenceDecides,

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(cidr *networking.ServiceCIDR) {
		cidr.Status = networking.ServiceCIDRStatus{}
	}),
	ValidateCreate: validateCreate(validation.ValidateServiceCIDR),
	PrepareForUpdate: prepareUpdate(func(cidr, old *networking.ServiceCIDR) {
		cidr.Status = old.Status
	}),
	ValidateUpdate: validateUpdate(validation.ValidateServiceCIDRUpdate),
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(cidr, old *networking.ServiceCIDR) {
			cidr.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&cidr.ObjectMeta, &old.ObjectMeta)
		}),
		Validate:    validateUpdate(validation.ValidateServiceCIDRStatusUpdate, "status"),
		ResetFields: []fieldpath.Path{fieldpath.MakePathOrDie("metadata")},
	},
}

// EnsureServiceCIDR makes the ServiceCIDR with the ranges of service addresses, and marks
// it ready. A stored one with other ranges than the configuration is an error: addresses
// in use would be outside of the new ones. A second range may be added, which makes the
// cluster dual-stack.
func EnsureServiceCIDR(ctx context.Context, r *resource.Registry, configured []netip.Prefix) error {
	ranges := make([]string, len(configured))
	for i, prefix := range configured {
		ranges[i] = prefix.String()
	}
	created, err := r.Create(ctx, ServiceCIDRs, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: allocator.DefaultServiceCIDR},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: ranges},
	}, resource.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = r.Get(ctx, ServiceCIDRs, "", allocator.DefaultServiceCIDR, "")
	}
	if err != nil {
		return fmt.Errorf("ServiceCIDR %q: %w", allocator.DefaultServiceCIDR, err)
	}
	stored := created.(*networkingv1.ServiceCIDR).Spec.CIDRs
	if len(stored) == 1 && len(ranges) == 2 && stored[0] == ranges[0] {
		_, err := r.Modify(ctx, ServiceCIDRs, "", "", allocator.DefaultServiceCIDR, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			cidr := current.DeepCopyObject().(*networkingv1.ServiceCIDR)
			cidr.Spec.CIDRs = ranges
			return cidr, nil
		})
		if err != nil {
			return fmt.Errorf("ServiceCIDR %q: add %s: %w", allocator.DefaultServiceCIDR, ranges[1], err)
		}
	} else if !slices.Equal(stored, ranges) {
		return fmt.Errorf("the service ranges are configured as %v, but the cluster was made with %v (ServiceCIDR %q): start with the old ranges",
			ranges, stored, allocator.DefaultServiceCIDR)
	}
	return markServiceCIDRReady(ctx, r)
}

func markServiceCIDRReady(ctx context.Context, r *resource.Registry) error {
	_, err := r.Modify(ctx, ServiceCIDRs, "status", "", allocator.DefaultServiceCIDR, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		cidr := current.DeepCopyObject().(*networkingv1.ServiceCIDR)
		if apimeta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) == nil {
			apimeta.SetStatusCondition(&cidr.Status.Conditions, metav1.Condition{
				Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
				Reason: "", Message: "Kubernetes default Service CIDR is ready",
			})
		}
		return cidr, nil
	})
	return err
}

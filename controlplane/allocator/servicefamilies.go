package allocator

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/scheme"
)

var (
	pathFamilyPolicy = field.NewPath("spec", "ipFamilyPolicy")
	pathFamilies     = field.NewPath("spec", "ipFamilies")
	pathClusterIPs   = field.NewPath("spec", "clusterIPs")
)

// setFamilies sets missing ipFamilyPolicy and ipFamilies from the cluster's families, and
// refuses others. A service that prefers two families keeps those that it got when it was
// created, also after the cluster has gained or lost one, until a client changes its
// addresses, families, policy or type.
func setFamilies(service, old *corev1.Service, configured []corev1.IPFamily) error {
	if service.Spec.Type == corev1.ServiceTypeExternalName || prefersAsBefore(service, old) {
		return nil
	}
	headlessWithoutSelector := service.Spec.ClusterIP == corev1.ClusterIPNone && len(service.Spec.Selector) == 0
	if service.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if headlessWithoutSelector {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		service.Spec.IPFamilyPolicy = &policy
	}
	var oldInternal *core.Service
	if old != nil {
		oldInternal = scheme.Internal[core.Service](old)
	}
	errs := validation.ValidateServiceClusterIPsRelatedFields(scheme.Internal[core.Service](service), oldInternal)
	if len(errs) == 0 {
		errs = trimFamilies(service, old)
		errs = append(errs, inferFamilies(service, configured)...)
	}
	if len(errs) == 0 && !headlessWithoutSelector {
		errs = familiesNotConfigured(service, configured)
	}
	if len(errs) > 0 {
		return invalidService(service, errs)
	}
	addFamilies(service, configured, headlessWithoutSelector)
	return nil
}

func invalidService(service *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), service.Name, errs)
}

func prefersAsBefore(service, old *corev1.Service) bool {
	prefers := func(s *corev1.Service) bool {
		return ptr.Deref(s.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack
	}
	return old != nil && service.Spec.Type == old.Spec.Type && prefers(service) && prefers(old) &&
		slices.Equal(service.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(service.Spec.IPFamilies, old.Spec.IPFamilies)
}

// trimFamilies drops the second address and family of a service that is set to one
// family, and refuses to drop or keep them against the policy.
func trimFamilies(service, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := &service.Spec
	refuse := func(reason string) {
		errs = append(errs, field.Invalid(pathFamilyPolicy, spec.IPFamilyPolicy, reason))
	}
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if old != nil && single {
		if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
			spec.ClusterIPs = spec.ClusterIPs[:1:1]
		}
		if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) {
			spec.IPFamilies = spec.IPFamilies[:1:1]
		}
	}
	if old != nil && !single {
		if n := len(spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
			refuse("must be 'SingleStack' to release the secondary cluster IP")
		}
		if n := len(spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
			refuse("must be 'SingleStack' to release the secondary IP family")
		}
	}
	if single && len(spec.ClusterIPs) == 2 {
		refuse("must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified")
	}
	if single && len(spec.IPFamilies) == 2 {
		refuse("must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified")
	}
	return errs
}

// inferFamilies derives families that a service does not name from the addresses that it does.
func inferFamilies(service *corev1.Service, configured []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range service.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		if i < len(service.Spec.IPFamilies) {
			continue
		}
		if family := familyOf(ip); slices.Contains(configured, family) {
			service.Spec.IPFamilies = append(service.Spec.IPFamilies, family)
		} else {
			errs = append(errs, field.Invalid(pathClusterIPs.Index(i), service.Spec.ClusterIPs,
				fmt.Sprintf("%s is not configured on this cluster", family)))
		}
	}
	return errs
}

func familiesNotConfigured(service *corev1.Service, configured []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	if *service.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(configured) < 2 {
		errs = append(errs, field.Invalid(pathFamilyPolicy, service.Spec.IPFamilyPolicy,
			"this cluster is not configured for dual-stack services"))
	}
	for i, family := range service.Spec.IPFamilies {
		if !slices.Contains(configured, family) {
			errs = append(errs, field.Invalid(pathFamilies.Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}

// addFamilies sets the cluster's primary family, and the other one where the policy asks
// for two and the cluster has them. A headless service without a selector gets two in any
// case: its endpoints may be outside of the cluster.
func addFamilies(service *corev1.Service, configured []corev1.IPFamily, headlessWithoutSelector bool) {
	if len(service.Spec.IPFamilies) == 0 {
		service.Spec.IPFamilies = []corev1.IPFamily{configured[0]}
	}
	two := headlessWithoutSelector || len(configured) == 2
	if two && len(service.Spec.IPFamilies) == 1 && *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		other := corev1.IPv6Protocol
		if service.Spec.IPFamilies[0] == corev1.IPv6Protocol {
			other = corev1.IPv4Protocol
		}
		service.Spec.IPFamilies = append(service.Spec.IPFamilies, other)
	}
}

// familyOf is the family of a valid address.
func familyOf(ip string) corev1.IPFamily {
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

package admission

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/resource"
)

// externalIPs refuses external addresses that are new to a service and are the cluster's own: anybody who may create a service could
// redirect all connections to the API server, to a node or to a pod (CVE-2020-8554). Stored addresses stay, and nodes ignore them. With
// --deny-external-ips it refuses all new ones, as Kubernetes' DenyServiceExternalIPs.
type externalIPs struct {
	*admission.Handler
	services  *resource.Kind
	registry  *resource.Registry
	cluster   allocator.Cluster
	allocated allocator.Kinds
}

func (p *externalIPs) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !of(a, p.services) {
		return nil
	}
	service := a.GetObject().(*corev1.Service)
	var known []string
	if before, ok := a.GetOldObject().(*corev1.Service); ok {
		known = before.Spec.ExternalIPs
	}
	if !slices.ContainsFunc(service.Spec.ExternalIPs, func(ip string) bool { return !slices.Contains(known, ip) }) {
		return nil
	}
	if p.cluster.DenyExternalIPs {
		return apierrors.NewForbidden(p.services.GroupResource(), service.Name, errors.New("Use of external IPs is denied by admission control"))
	}
	inside, err := p.allocated.Inside(ctx, p.registry, p.cluster)
	if err != nil {
		return err
	}
	var errs field.ErrorList
	for i, ip := range service.Spec.ExternalIPs {
		addr, err := netip.ParseAddr(ip)
		if err != nil || slices.Contains(known, ip) {
			continue // validation has an opinion about what is no address
		}
		if why := inside.Reserved(addr.Unmap()); why != "" {
			errs = append(errs, field.Invalid(field.NewPath("spec", "externalIPs").Index(i), ip, "may not be an external address: "+why))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(p.services.GVK.GroupKind(), service.Name, errs)
	}
	return nil
}

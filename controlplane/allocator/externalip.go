package allocator

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// checkExternalIPs refuses external addresses that are new to a service and the cluster's own: whoever may make a service could
// take the connections of everybody to the API server, to a node or to a pod (CVE-2020-8554). What is stored stays, and is ignored
// by nodes.
func (w *work) checkExternalIPs(ctx context.Context, service, before *corev1.Service) error {
	var known []string
	if before != nil {
		known = before.Spec.ExternalIPs
	}
	if !slices.ContainsFunc(service.Spec.ExternalIPs, func(ip string) bool { return !slices.Contains(known, ip) }) {
		return nil
	}
	if w.cluster.DenyExternalIPs {
		return apierrors.NewForbidden(w.Services.GroupResource(), service.Name, errors.New("Use of external IPs is denied by admission control"))
	}
	inside, err := w.inside(ctx)
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
		return invalidService(service, errs)
	}
	return nil
}

// inside is what the store knows of the cluster's own addresses.
func (w *work) inside(ctx context.Context) (servicespec.Inside, error) {
	inside := servicespec.Inside{ServiceCIDRs: w.cluster.ServiceCIDRs, APIServers: w.cluster.APIServers}
	for _, pods := range w.cluster.PodCIDRs {
		inside.PodCIDRs = append(inside.PodCIDRs, pods.Prefix)
	}
	nodes, err := w.r.List(ctx, w.Nodes, "", resource.ListOptions{})
	if err != nil {
		return inside, err
	}
	holders := map[netip.Addr]string{}
	for _, obj := range nodes.Objects {
		node := obj.Value().(*corev1.Node)
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				holders[addr.Unmap()] = node.Name
			}
		}
	}
	inside.Node = func(addr netip.Addr) string { return holders[addr] }
	return inside, nil
}

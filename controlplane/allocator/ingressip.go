package allocator

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/controlplane/storage"
)

// checkLoadBalancerIPs refuses load-balancer addresses in a status that are new to the service and are the cluster's own, or another
// service's: every node would send connections to them to this service's endpoints, for anybody who may write its status (CVE-2020-8554). A
// balancer that answers by itself (ipMode Proxy) may have any address: nodes do not serve it.
func (w *work) checkLoadBalancerIPs(ctx context.Context, service, before *corev1.Service) error {
	var inside *servicespec.Inside
	var errs field.ErrorList
	for i, ingress := range service.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(ingress.IP)
		if err != nil || isProxy(ingress) || hasIngress(before, ingress.IP) {
			continue // validation has an opinion about what is no address
		}
		if inside == nil {
			all, err := w.Inside(ctx, w.r, w.cluster)
			if err != nil {
				return err
			}
			inside = &all
		}
		why := inside.Reserved(addr.Unmap())
		if why == "" {
			if why, err = w.notGiven(ctx, service, addr); err != nil {
				return err
			}
		}
		if why != "" {
			errs = append(errs, field.Invalid(field.NewPath("status", "loadBalancer", "ingress").Index(i).Child("ip"), ingress.IP, "may not be a load-balancer address of this service: "+why))
		}
	}
	if len(errs) > 0 {
		return invalidService(service, errs)
	}
	return nil
}

func isProxy(ingress corev1.LoadBalancerIngress) bool {
	return ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy
}

// hasIngress says whether the service's status has that address already, for nodes to serve.
func hasIngress(service *corev1.Service, ip string) bool {
	return slices.ContainsFunc(service.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == ip && !isProxy(i) })
}

// notGiven says why skepd's pool of addresses rules out an address for a service; "" if it does not. An address of the pool is then
// recorded as the service's, unless the transaction does that already.
func (w *work) notGiven(ctx context.Context, service *corev1.Service, addr netip.Addr) (why string, err error) {
	pool := w.cluster.LoadBalancerPool
	if pool == nil {
		return "", nil
	}
	ours, given := servicespec.GivenByUs(service), pool.Contains(addr)
	switch {
	case !ours && given:
		return "it is of the pool that skepd gives addresses from (--lb-cidr " + pool.String() + ")", nil
	case ours && !given:
		return "skepd gives this service its addresses, and it is not of the pool (--lb-cidr " + pool.String() + "); a controller with other addresses serves a spec.loadBalancerClass of its own", nil
	case !ours:
		return "", nil
	}
	key := loadBalancerKey(addr)
	if slices.ContainsFunc(w.tx.Guards, func(g storage.Guard) bool { return g.Key == key }) {
		return "", nil
	}
	holder, err := w.TakeLoadBalancerIP(ctx, w.r, w.tx, service, addr)
	if err != nil || holder == "" {
		return "", err
	}
	return "it is the address of service " + holder, nil
}

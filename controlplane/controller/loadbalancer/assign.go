package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Condition is the type of the condition that a service has as long as it lacks an
// address. Its reason and message say why.
const Condition = servicespec.LoadBalancerAddress

// Reasons of the condition and of the events.
const (
	ReasonNoPool      = "NoLoadBalancerPool"
	ReasonExhausted   = "LoadBalancerPoolExhausted"
	ReasonNoFamily    = "LoadBalancerFamilyMissing"
	ReasonUnavailable = "LoadBalancerIPUnavailable"
)

// lack says why a service does not have all the addresses that it should.
type lack struct{ reason, message string }

// assign sets the addresses that a service is to have in its status. The records of
// addresses that it gets or releases are added to tx.
func (c *Controller) assign(ctx context.Context, tx *resource.Tx, service *corev1.Service) (*lack, error) {
	have := allocator.LoadBalancerIPs(service)
	if len(c.pool) == 0 {
		// Perhaps another controller serves services without a class: its addresses are not checked here.
		if len(have) > 0 {
			return nil, nil
		}
		return &lack{ReasonNoPool, "skepd has no load-balancer addresses to give: start it with --lb-cidr, or name another controller in spec.loadBalancerClass"}, nil
	}
	var want []netip.Addr
	var problem *lack
	for _, family := range service.Spec.IPFamilies {
		addr, why, err := c.addressFor(ctx, tx, service, have, family == corev1.IPv4Protocol)
		if err != nil {
			return nil, err
		}
		if why != nil && problem == nil && !forgiven(service, why) {
			problem = why
		}
		if addr.IsValid() {
			want = append(want, addr)
		}
	}
	for _, addr := range have {
		if !slices.Contains(want, addr) {
			if err := allocator.ReleaseLoadBalancerIP(ctx, c.registry, tx, service, addr); err != nil {
				return nil, err
			}
		}
	}
	show(service, want)
	return problem, nil
}

// forgiven says whether a lack does not count: a service that only prefers two families may have one.
func forgiven(service *corev1.Service, why *lack) bool {
	return why.reason == ReasonNoFamily && len(service.Spec.IPFamilies) > 1 &&
		ptr.Deref(service.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack
}

// addressFor returns the address of a family that the service is to have: the one that it
// asks for, or already has, or a free one.
func (c *Controller) addressFor(ctx context.Context, tx *resource.Tx, service *corev1.Service, have []netip.Addr, four bool) (netip.Addr, *lack, error) {
	has := slices.IndexFunc(have, func(addr netip.Addr) bool { return addr.Is4() == four && c.pool.Contains(addr) })
	if asked, err := netip.ParseAddr(service.Spec.LoadBalancerIP); err == nil && asked.Is4() == four {
		if !c.pool.Contains(asked) {
			return netip.Addr{}, &lack{ReasonUnavailable, fmt.Sprintf("spec.loadBalancerIP %s is not of the pool (--lb-cidr %s)", asked, c.pool)}, nil
		}
		return c.acquire(ctx, tx, service, asked, slices.Contains(have, asked))
	}
	if has >= 0 {
		// Recorded again if the status shows it but there is no record, as after a restore.
		if addr, why, err := c.acquire(ctx, tx, service, have[has], true); err != nil || why == nil {
			return addr, why, err
		}
	}
	if !c.pool.has(four) {
		return netip.Addr{}, &lack{ReasonNoFamily, fmt.Sprintf("the pool has no %s addresses (--lb-cidr %s)", familyName(four), c.pool)}, nil
	}
	key := controller.KeyOf(service)
	for addr := range c.pool.addresses(four) {
		if _, used := c.ledger.user(addr, key); used {
			continue
		}
		got, why, err := c.acquire(ctx, tx, service, addr, false)
		if err != nil || why == nil {
			return got, nil, err
		}
	}
	return netip.Addr{}, &lack{ReasonExhausted, fmt.Sprintf("all %s addresses of the pool are in use (--lb-cidr %s): delete services that need none, or give skepd a larger pool", familyName(four), c.pool)}, nil
}

func familyName(four bool) corev1.IPFamily {
	if four {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// acquire records one address for a service, or says who has it. A service keeps an address that it has,
// even if others ask for it as an external address since.
func (c *Controller) acquire(ctx context.Context, tx *resource.Tx, service *corev1.Service, addr netip.Addr, has bool) (netip.Addr, *lack, error) {
	taken := func(by string) (netip.Addr, *lack, error) {
		return netip.Addr{}, &lack{ReasonUnavailable, fmt.Sprintf("address %s is used by %s", addr, by)}, nil
	}
	if user, used := c.ledger.user(addr, controller.KeyOf(service)); used {
		switch {
		case user.Namespace == "":
			return taken("node " + user.Name)
		case !has:
			return taken("service " + user.String())
		}
	}
	holder, err := kinds.Allocated.TakeLoadBalancerIP(ctx, c.registry, tx, service, addr)
	switch {
	case err != nil:
		return netip.Addr{}, nil, err
	case holder != "":
		return taken("service " + holder)
	}
	return addr, nil, nil
}

// show writes addresses into a service's status, and keeps the other fields of those that stay.
func show(service *corev1.Service, addrs []netip.Addr) {
	before := service.Status.LoadBalancer.Ingress
	var after []corev1.LoadBalancerIngress
	for _, addr := range addrs {
		ingress := corev1.LoadBalancerIngress{IP: addr.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}
		if i := slices.IndexFunc(before, func(b corev1.LoadBalancerIngress) bool { return b.IP == ingress.IP }); i >= 0 {
			ingress.Ports = before[i].Ports
		}
		after = append(after, ingress)
	}
	service.Status.LoadBalancer.Ingress = after
}

// setCondition sets the condition for a lack, or removes it if why is nil.
func setCondition(service *corev1.Service, why *lack) (changed bool) {
	if why == nil {
		return apimeta.RemoveStatusCondition(&service.Status.Conditions, Condition)
	}
	return apimeta.SetStatusCondition(&service.Status.Conditions, metav1.Condition{
		Type: Condition, Status: metav1.ConditionFalse, Reason: why.reason, Message: why.message, ObservedGeneration: service.Generation,
	})
}

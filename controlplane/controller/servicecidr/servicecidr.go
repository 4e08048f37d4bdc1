// Package servicecidr manages the ranges of service addresses: it marks ServiceCIDRs
// ready, keeps one that is being deleted as long as an address in use would have no other
// range, and creates the default one again. It also looks for services and IPAddresses
// that disagree, which only hand-written objects and restored backups do, and repairs or
// reports them. It never allocates an address: the registry does, together with the
// service.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// The sources of this loop's events: of ranges, and of addresses.
const (
	Component       = "service-cidr-controller"
	RepairComponent = "ipallocator-repair-controller"
)

// Finalizer keeps a ServiceCIDR until no address needs it.
const Finalizer = "networking.k8s.io/service-cidr-finalizer"

// managedBy is the value of the label managed-by of the addresses that are allocated with services.
const managedBy = "ipallocator.k8s.io"

const workers = 4

// Controller is the loop of service ranges and addresses.
type Controller struct {
	registry *resource.Registry
	// configured are the ranges of the default ServiceCIDR.
	configured []netip.Prefix
	recorder   *event.Recorder
	repairs    *event.Recorder
	ranges     *controller.Queue[string]
	services   *controller.Queue[controller.Key]
	addresses  *controller.Queue[string]
}

// New makes the loop; repairs records the events about services and addresses. It runs once.
func New(registry *resource.Registry, configured []netip.Prefix, recorder, repairs *event.Recorder) *Controller {
	return &Controller{
		registry: registry, configured: configured, recorder: recorder, repairs: repairs,
		ranges:    controller.NewQueue[string]("service ranges"),
		services:  controller.NewQueue[controller.Key]("addresses of services"),
		addresses: controller.NewQueue[string]("service addresses"),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.ServiceCIDRs, c.rangeChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.IPAddresses, c.addressChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Services, c.serviceChanged)
	c.ranges.Add(allocator.DefaultServiceCIDR)
	wg.Go(func() { c.ranges.Run(ctx, 1, c.syncRange) })
	wg.Go(func() { c.services.Run(ctx, workers, c.syncService) })
	wg.Go(func() { c.addresses.Run(ctx, workers, c.syncAddress) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) rangeChanged(old, cur *networkingv1.ServiceCIDR, _ int64) {
	changed := cur
	if cur == nil {
		changed = old
	}
	c.ranges.Add(changed.Name)
	if old != nil && cur != nil && slices.Equal(old.Spec.CIDRs, cur.Spec.CIDRs) {
		return
	}
	// Another range may take over the addresses of one that is being deleted, or no longer do.
	for _, other := range c.all() {
		if other.DeletionTimestamp != nil {
			c.ranges.Add(other.Name)
		}
	}
	// Addresses that were in no range may be in one now, or the reverse.
	for _, service := range resource.ListAs[*corev1.Service](c.registry, kinds.Services, "", nil) {
		if !c.known(service) {
			c.services.Add(controller.KeyOf(service))
		}
	}
}

func (c *Controller) addressChanged(old, cur *networkingv1.IPAddress, _ int64) {
	if cur != nil {
		c.addresses.Add(cur.Name)
		c.holderOf(cur)
		return
	}
	c.holderOf(old)
	addr, err := netip.ParseAddr(old.Name)
	if err != nil {
		return
	}
	for _, cidr := range c.all() {
		if cidr.DeletionTimestamp != nil && contains(cidr, addr) {
			c.ranges.Add(cidr.Name)
		}
	}
}

// holderOf queues the service that an address names.
func (c *Controller) holderOf(address *networkingv1.IPAddress) {
	if ref := address.Spec.ParentRef; ref != nil && ref.Resource == "services" && ref.Group == "" {
		c.services.Add(controller.Key{Namespace: ref.Namespace, Name: ref.Name})
	}
}

func (c *Controller) serviceChanged(old, cur *corev1.Service, _ int64) {
	if old != nil {
		for _, ip := range old.Spec.ClusterIPs {
			c.addresses.Add(ip)
		}
	}
	if cur != nil {
		c.services.Add(controller.KeyOf(cur))
	}
}

func (c *Controller) all() []*networkingv1.ServiceCIDR {
	return resource.ListAs[*networkingv1.ServiceCIDR](c.registry, kinds.ServiceCIDRs, "", nil)
}

func contains(cidr *networkingv1.ServiceCIDR, addr netip.Addr) bool {
	return slices.ContainsFunc(cidr.Spec.CIDRs, func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && prefix.Contains(addr)
	})
}

// syncRange brings one ServiceCIDR up to date.
func (c *Controller) syncRange(ctx context.Context, name string) error {
	obj, err := c.registry.Get(ctx, kinds.ServiceCIDRs, "", name, "")
	if apierrors.IsNotFound(err) {
		if name == allocator.DefaultServiceCIDR {
			return kinds.EnsureServiceCIDR(ctx, c.registry, c.configured)
		}
		return nil
	}
	if err != nil {
		return err
	}
	cidr := obj.(*networkingv1.ServiceCIDR)
	if cidr.DeletionTimestamp != nil {
		return c.finish(ctx, cidr)
	}
	if err := c.protect(ctx, cidr, true); err != nil {
		return err
	}
	if name == allocator.DefaultServiceCIDR && apimeta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil // What it says is who made it ready.
	}
	return c.setReady(ctx, cidr, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
}

// finish removes the finalizer of a ServiceCIDR if no address needs it. A write that
// allocates an address guards that the range has not changed, so none has been allocated
// since the deletion was committed: the store has all addresses of the range.
func (c *Controller) finish(ctx context.Context, cidr *networkingv1.ServiceCIDR) error {
	needed, err := c.needed(ctx, cidr)
	if err != nil {
		return err
	}
	if needed {
		return c.setReady(ctx, cidr, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	return c.protect(ctx, cidr, false)
}

// needed says whether an address that is in use would have no range without this one.
func (c *Controller) needed(ctx context.Context, cidr *networkingv1.ServiceCIDR) (bool, error) {
	list, err := c.registry.List(ctx, kinds.ServiceCIDRs, "", resource.ListOptions{})
	if err != nil {
		return false, err
	}
	var others []netip.Prefix
	for _, o := range list.Objects {
		if other := o.Value().(*networkingv1.ServiceCIDR); other.Name != cidr.Name {
			for _, text := range other.Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					others = append(others, prefix)
				}
			}
		}
	}
	addresses, err := c.registry.List(ctx, kinds.IPAddresses, "", resource.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, o := range addresses.Objects {
		addr, err := netip.ParseAddr(o.Value().GetName())
		if err != nil || o.Value().GetLabels()[networkingv1.LabelManagedBy] != managedBy || !contains(cidr, addr) {
			continue
		}
		if !slices.ContainsFunc(others, func(other netip.Prefix) bool { return other.Contains(addr) }) {
			return true, nil
		}
	}
	return false, nil
}

// protect adds or removes the finalizer.
func (c *Controller) protect(ctx context.Context, cidr *networkingv1.ServiceCIDR, on bool) error {
	_, err := c.registry.Modify(ctx, kinds.ServiceCIDRs, "", "", cidr.Name, resource.UpdateOptions{Preconditions: &metav1.Preconditions{UID: &cidr.UID}},
		func(current resource.Object) (resource.Object, error) {
			if slices.Contains(current.GetFinalizers(), Finalizer) == on || on && current.GetDeletionTimestamp() != nil {
				return current, nil
			}
			next := current.DeepCopyObject().(*networkingv1.ServiceCIDR)
			if on {
				next.Finalizers = append(next.Finalizers, Finalizer)
			} else {
				next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == Finalizer })
			}
			return next, nil
		})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) setReady(ctx context.Context, cidr *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	_, err := c.registry.Modify(ctx, kinds.ServiceCIDRs, "status", "", cidr.Name, resource.UpdateOptions{Preconditions: &metav1.Preconditions{UID: &cidr.UID}},
		func(current resource.Object) (resource.Object, error) {
			next := current.DeepCopyObject().(*networkingv1.ServiceCIDR)
			changed := apimeta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
				Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message,
			})
			if !changed {
				return current, nil
			}
			return next, nil
		})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.recorder.Eventf(cidr, corev1.EventTypeWarning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=%s", status)
	}
	return err
}

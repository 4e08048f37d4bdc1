// Package conflict reports on a Service, once for all nodes, which parts of it the data plane cannot serve because of other objects:
// addresses and ports that belong to another service or to a pod's host port, external addresses that are the cluster's own, and endpoints
// at addresses where no endpoint can be. It owns three conditions, which last as long as what they describe, and their events; a pod whose
// host port another pod or service has gets only the event. It decides nothing: servicespec has the rule for an address that several ask
// for, which every node applies, and what is not in conflict works.
package conflict

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Component is the source of this loop's events.
const Component = "service-conflict-controller"

// Reasons of the conditions and of the events.
const (
	ReasonInUse   = "AddressInUse"
	ReasonIgnored = "EndpointIgnored"
	// ReasonInside: an external address is the cluster's own.
	ReasonInside = "ExternalAddressIgnored"
)

const workers = 4

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	cluster  allocator.Cluster
	recorder *event.Recorder
	queue    *controller.Queue[holder]
	claims   *claims
	misled   *misled

	mu       sync.Mutex
	reported map[holder]string // pods -> what their last event said
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, cluster allocator.Cluster, recorder *event.Recorder) *Controller {
	return &Controller{
		registry: registry, cluster: cluster, recorder: recorder,
		queue:  controller.NewQueue[holder]("service conflicts"),
		claims: newClaims(), misled: newMisled(),
		reported: map[holder]string{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Services, c.serviceChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.EndpointSlices, c.sliceChanged)
	wg.Go(func() { c.queue.Run(ctx, workers, c.sync) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) add(affected []holder) {
	for _, h := range affected {
		c.queue.Add(h)
	}
}

func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	if cur == nil {
		c.add(c.claims.setNode(old.Name, nil))
		return
	}
	var addrs []netip.Addr
	for _, a := range cur.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	c.add(c.claims.setNode(cur.Name, addrs))
}

func (c *Controller) serviceChanged(old, cur *corev1.Service, _ int64) {
	if cur == nil {
		c.add(c.claims.set(holder{Key: controller.KeyOf(old)}, "", nil))
		return
	}
	h := holder{Key: controller.KeyOf(cur)}
	var asked []asked
	for i := range cur.Spec.Ports {
		port := &cur.Spec.Ports[i]
		asked = appendAsked(asked, servicespec.PortName(cur, port), cur, servicespec.Frontends(cur, port))
	}
	c.add(c.claims.set(h, "", asked))
	c.queue.Add(h)
}

func (c *Controller) podChanged(old, cur *corev1.Pod, _ int64) {
	pod := cur
	if pod == nil {
		pod = old
	}
	h := holder{pod: true, Key: controller.KeyOf(pod)}
	var asked []asked
	if cur != nil && cur.Spec.NodeName != "" && !cur.Spec.HostNetwork && servicespec.Running(cur) {
		for _, port := range servicespec.HostPorts(cur, servicespec.PodAddrs(cur)) {
			asked = appendAsked(asked, port.Name, cur, port.Frontends)
		}
	}
	affected := c.claims.set(h, pod.Spec.NodeName, asked)
	c.add(affected)
	if len(affected) > 0 {
		c.queue.Add(h)
	}
}

func (c *Controller) sliceChanged(old, cur *discoveryv1.EndpointSlice, _ int64) {
	for _, service := range c.misled.set(old, cur, c.reserved) {
		c.queue.Add(holder{Key: service})
	}
}

func (c *Controller) reserved(addr netip.Addr) string {
	return servicespec.Reserved(addr, c.cluster.ServiceCIDRs, func(addr netip.Addr) string {
		if key, ok := c.claims.clusterHolder(addr); ok {
			return key.String()
		}
		return ""
	})
}

// sync brings the conditions and events of one service, or one pod, up to date.
func (c *Controller) sync(ctx context.Context, h holder) error {
	lost := lossText(h, c.claims.losses(h, c.hasPort))
	if h.pod {
		return c.reportToPod(ctx, h, lost)
	}
	service, err := resource.Get[*corev1.Service](ctx, c.registry, kinds.Services, h.Namespace, h.Name)
	if err != nil {
		return dropNotFound(err)
	}
	ignored := ""
	if len(servicespec.ClusterAddrs(service)) > 0 {
		ignored = c.misled.text(h.Key, c.reserved)
	}
	inside := c.insideText(service)
	if said(service, servicespec.AddressConflict) == lost && said(service, servicespec.EndpointsIgnored) == ignored &&
		said(service, servicespec.ExternalAddressesIgnored) == inside {
		return nil
	}
	var fresh []metav1.Condition
	obj, err := c.registry.Modify(ctx, kinds.Services, "status", h.Namespace, h.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		next := current.DeepCopyObject().(*corev1.Service)
		next.ResourceVersion = ""
		fresh = fresh[:0]
		for _, condition := range []metav1.Condition{
			{Type: servicespec.AddressConflict, Reason: ReasonInUse, Message: lost},
			{Type: servicespec.EndpointsIgnored, Reason: ReasonIgnored, Message: ignored},
			{Type: servicespec.ExternalAddressesIgnored, Reason: ReasonInside, Message: inside},
		} {
			if say(next, condition) {
				fresh = append(fresh, condition)
			}
		}
		return next, nil
	})
	if err != nil {
		return dropNotFound(err)
	}
	for _, condition := range fresh {
		c.recorder.Eventf(obj, corev1.EventTypeWarning, condition.Reason, "%s", condition.Message)
	}
	return nil
}

func dropNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func said(service *corev1.Service, condition string) string {
	if c := apimeta.FindStatusCondition(service.Status.Conditions, condition); c != nil {
		return c.Message
	}
	return ""
}

// say sets a condition, or removes it if it has no message; fresh if its message changed.
func say(service *corev1.Service, condition metav1.Condition) (fresh bool) {
	if condition.Message == "" {
		apimeta.RemoveStatusCondition(&service.Status.Conditions, condition.Type)
		return false
	}
	condition.Status, condition.ObservedGeneration = metav1.ConditionTrue, service.Generation
	before := said(service, condition.Type)
	apimeta.SetStatusCondition(&service.Status.Conditions, condition)
	return before != condition.Message
}

func (c *Controller) reportToPod(ctx context.Context, h holder, lost string) error {
	c.mu.Lock()
	before := c.reported[h]
	if c.reported[h] = lost; lost == "" {
		delete(c.reported, h)
	}
	c.mu.Unlock()
	if lost == "" || lost == before {
		return nil
	}
	pod, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, h.Namespace, h.Name)
	if err != nil {
		return dropNotFound(err)
	}
	c.recorder.Eventf(pod, corev1.EventTypeWarning, ReasonInUse, "%s", lost)
	return nil
}

// hasPort says whether a service has a frontend's port at its cluster addresses.
func (c *Controller) hasPort(key controller.Key, f servicespec.Frontend) bool {
	service, err := resource.Get[*corev1.Service](context.Background(), c.registry, kinds.Services, key.Namespace, key.Name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return uint16(p.Port) == f.Port && p.Protocol == f.Protocol
	})
}

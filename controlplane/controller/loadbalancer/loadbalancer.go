// Package loadbalancer gives services of type LoadBalancer an address of the
// cluster's own pool and says which node announces it. It owns the ingress in
// their status, the records of who holds which address, and the annotation
// skep.io/announced-by. It never announces anything itself: the named node's agent
// answers ARP and NDP for the addresses of the service, and agents of other nodes do not.
//
// # Whose services
//
// A service is this loop's if its spec.loadBalancerClass is not set or is
// "skep.io/arp". Any other class belongs to a controller of that name, as in
// Kubernetes: this loop neither reads nor writes such a service. To use a cloud's
// controller, give services its class; it writes status.loadBalancer.ingress, and the
// data plane of every node serves the addresses that it finds there (with ipMode Proxy it
// leaves them to the cloud's proxy). Who announces such an address is the cloud's
// business.
//
// Without a pool (no --lb-cidr) services without a class are left to whoever
// serves them; one that has no address yet gets an event that says so
// and a condition.
//
// # Addresses
//
// A service gets one address for each of its families, the lowest that is free,
// or spec.loadBalancerIP if it names one of the pool. It keeps them until it is
// deleted or changes its type, or until skepd starts with a pool without them. Addresses
// that nodes have, or that services claim as external addresses, are not given out. A
// service that gets no address has an event and the condition
// skep.io/LoadBalancerAddress, which is removed when it gets one.
//
// # Announcers
//
// The announcer is a ready node without the label
// node.kubernetes.io/exclude-from-external-load-balancers; for a service with
// externalTrafficPolicy Local it also runs an endpoint of the service. A service
// stays with its node as long as that holds.
package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Component is the source of this loop's events.
const Component = "loadbalancer-controller"

const (
	// Class is the loadBalancerClass of services that are this loop's; services without a class are, too.
	Class = servicespec.LoadBalancerClass
	// AnnouncedBy is the annotation that names the node which announces a service's addresses.
	AnnouncedBy = servicespec.AnnouncedByAnnotation
)

const workers = 8

// Controller is the load-balancer loop.
type Controller struct {
	registry   *resource.Registry
	recorder   *event.Recorder
	pool       Pool
	queue      *controller.Queue[controller.Key]
	ledger     *ledger
	announcers *announcers

	waitingMu sync.Mutex
	waiting   map[controller.Key]struct{} // services that lack an address
}

// New makes the loop; the pool may be empty. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder, pool Pool) *Controller {
	return &Controller{
		registry: registry, recorder: recorder, pool: pool,
		queue:  controller.NewQueue[controller.Key]("load balancers"),
		ledger: newLedger(), announcers: newAnnouncers(),
		waiting: map[controller.Key]struct{}{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Services, c.serviceChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.EndpointSlices, c.sliceChanged)
	wg.Go(func() { c.queue.Run(ctx, workers, c.sync) })
	wg.Wait()
	return ctx.Err()
}

// ours says whether this loop serves a service.
func ours(service *corev1.Service) bool {
	return servicespec.GivenByUs(service)
}

func local(service *corev1.Service) bool {
	return service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	name, addrs := "", []netip.Addr(nil)
	if cur != nil {
		name = cur.Name
		for _, a := range cur.Status.Addresses {
			addrs = appendAddr(addrs, a.Address)
		}
	} else {
		name = old.Name
	}
	if c.ledger.set(controller.Key{Name: name}, addrs) {
		c.wake()
	}
	for _, key := range c.announcers.setNode(name, canAnnounce(cur)) {
		c.queue.Add(key)
	}
}

func (c *Controller) serviceChanged(old, cur *corev1.Service, _ int64) {
	if cur == nil {
		key := controller.KeyOf(old)
		c.announcers.forget(key)
		c.satisfied(key)
		if c.ledger.set(key, nil) {
			c.wake()
		}
		return
	}
	key := controller.KeyOf(cur)
	addrs := allocator.LoadBalancerIPs(cur)
	for _, ip := range cur.Spec.ExternalIPs {
		addrs = appendAddr(addrs, ip)
	}
	if c.ledger.set(key, addrs) {
		c.wake()
	}
	if ours(cur) {
		c.announcers.learn(key, cur.Annotations[AnnouncedBy])
	}
	if ours(cur) || old != nil && ours(old) || cur.Annotations[AnnouncedBy] != "" {
		c.queue.Add(key)
	}
}

func appendAddr(addrs []netip.Addr, text string) []netip.Addr {
	if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, addr) {
		return append(addrs, addr)
	}
	return addrs
}

func (c *Controller) sliceChanged(old, cur *discoveryv1.EndpointSlice, _ int64) {
	for _, s := range []*discoveryv1.EndpointSlice{old, cur} {
		if s == nil || s.Labels[discoveryv1.LabelServiceName] == "" {
			continue
		}
		key := controller.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		service, err := resource.Get[*corev1.Service](context.Background(), c.registry, kinds.Services, key.Namespace, key.Name)
		if err == nil && ours(service) && local(service) {
			c.queue.Add(key)
		}
	}
}

// wake queues the services that lack an address: one has become free.
func (c *Controller) wake() {
	c.waitingMu.Lock()
	defer c.waitingMu.Unlock()
	for key := range c.waiting {
		c.queue.Add(key)
	}
}

func (c *Controller) lacks(key controller.Key) {
	c.waitingMu.Lock()
	defer c.waitingMu.Unlock()
	c.waiting[key] = struct{}{}
}

func (c *Controller) satisfied(key controller.Key) {
	c.waitingMu.Lock()
	defer c.waitingMu.Unlock()
	delete(c.waiting, key)
}

// outcome is what a sync has done to a service, for its events.
type outcome struct {
	before   []netip.Addr
	why      *lack
	newly    bool   // the lack was not known
	from, to string // who announced, who announces
}

// sync brings one service up to date.
func (c *Controller) sync(ctx context.Context, key controller.Key) error {
	var done outcome
	// The status subresource changes metadata too: address and announcer become visible in one write.
	obj, err := c.registry.ModifyWith(ctx, kinds.Services, "status", key.Namespace, key.Name, resource.UpdateOptions{},
		func(current resource.Object, tx *resource.Tx) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			service.ResourceVersion = ""
			var err error
			done, err = c.change(ctx, tx, service)
			return service, err
		})
	if apierrors.IsNotFound(err) {
		// Forget also what was recorded after the service was deleted.
		c.announcers.forget(key)
		c.satisfied(key)
		return nil
	}
	if err != nil {
		return err
	}
	c.reportChange(obj.(*corev1.Service), done)
	return nil
}

// change sets a service's addresses, condition and announcer.
func (c *Controller) change(ctx context.Context, tx *resource.Tx, service *corev1.Service) (done outcome, err error) {
	key := controller.KeyOf(service)
	done.before, done.from = allocator.LoadBalancerIPs(service), service.Annotations[AnnouncedBy]
	if !ours(service) {
		c.announcers.forget(key)
		c.satisfied(key)
		delete(service.Annotations, AnnouncedBy)
		setCondition(service, nil)
		done.before = nil
		return done, nil
	}
	// Before the search for a free address: one that becomes free after the search must not be missed.
	c.lacks(key)
	if done.why, err = c.assign(ctx, tx, service); err != nil {
		return done, err
	}
	if done.why == nil {
		c.satisfied(key)
	}
	done.newly = setCondition(service, done.why) && done.why != nil
	if done.to, err = c.announcer(ctx, service); err != nil {
		return done, err
	}
	if done.to == "" {
		delete(service.Annotations, AnnouncedBy)
		return done, nil
	}
	if service.Annotations == nil {
		service.Annotations = map[string]string{}
	}
	service.Annotations[AnnouncedBy] = done.to
	return done, nil
}

// announcer chooses the node that announces a service; "" if there is nothing to announce or nobody to do it.
func (c *Controller) announcer(ctx context.Context, service *corev1.Service) (string, error) {
	key := controller.KeyOf(service)
	shown := allocator.LoadBalancerIPs(service)
	if len(c.pool) == 0 {
		// Without a pool, only addresses of an earlier pool are announced.
		for _, addr := range shown {
			held, err := allocator.HoldsLoadBalancerIP(ctx, c.registry, service, addr)
			if err != nil {
				return "", err
			}
			if !held {
				shown = nil
				break
			}
		}
	}
	if len(shown) == 0 {
		c.announcers.forget(key)
		return "", nil
	}
	var among map[string]bool
	if local(service) {
		among = c.nodesWithEndpoints(service)
	}
	return c.announcers.choose(key, among), nil
}

// nodesWithEndpoints are the nodes of a service's ready endpoints or, if none
// is ready, of those that serve on while they terminate.
func (c *Controller) nodesWithEndpoints(service *corev1.Service) map[string]bool {
	ready, serving := map[string]bool{}, map[string]bool{}
	name := service.Namespace + "/" + service.Name
	for _, s := range resource.ByIndex[*discoveryv1.EndpointSlice](c.registry, kinds.EndpointSlices, kinds.SlicesByService, name) {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.NodeName == nil || s.AddressType == discoveryv1.AddressTypeFQDN {
				continue
			}
			switch {
			case ptr.Deref(e.Conditions.Ready, true):
				ready[*e.NodeName] = true
			case ptr.Deref(e.Conditions.Serving, false) && ptr.Deref(e.Conditions.Terminating, false):
				serving[*e.NodeName] = true
			}
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return serving
}

// reportChange records what changed as events of the service.
func (c *Controller) reportChange(service *corev1.Service, done outcome) {
	after := allocator.LoadBalancerIPs(service)
	if !ours(service) {
		return
	}
	if len(after) > 0 && !slices.Equal(done.before, after) {
		c.recorder.Eventf(service, corev1.EventTypeNormal, "IPAllocated", "Assigned load-balancer address %s", text(after))
	}
	if done.newly {
		c.recorder.Eventf(service, corev1.EventTypeWarning, done.why.reason, "%s", done.why.message)
	}
	switch {
	case done.from == done.to:
	case done.to == "":
		c.recorder.Eventf(service, corev1.EventTypeWarning, "NotAnnounced", "No node announces %s: %s", text(after), whyNobody(service))
	case done.from == "":
		c.recorder.Eventf(service, corev1.EventTypeNormal, "AnnouncedBy", "Node %s announces %s", done.to, text(after))
	default:
		c.recorder.Eventf(service, corev1.EventTypeNormal, "AnnouncedBy", "Node %s announces %s instead of %s", done.to, text(after), done.from)
	}
}

func whyNobody(service *corev1.Service) string {
	if len(allocator.LoadBalancerIPs(service)) == 0 {
		return "the service has no address"
	}
	if local(service) {
		return "no ready node runs a ready endpoint, which externalTrafficPolicy Local asks for"
	}
	return fmt.Sprintf("no node is ready and without the label %s", corev1.LabelNodeExcludeBalancers)
}

func text(addrs []netip.Addr) string {
	parts := make([]string, len(addrs))
	for i, addr := range addrs {
		parts[i] = addr.String()
	}
	return strings.Join(parts, " and ")
}

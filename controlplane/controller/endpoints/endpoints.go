// Package endpoints keeps the EndpointSlices
// and the Endpoints of services with a selector, and mirrors hand-written
// Endpoints of services without one into slices. It owns nothing else, and it
// never decides whether a pod is ready.
package endpoints

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "endpoint-slice-controller"

// MirrorComponent is that of events about mirrored Endpoints.
const MirrorComponent = "endpoint-slice-mirroring-controller"

// The values of the label managed-by, which say whose a slice or an Endpoints object is.
const (
	managedSlice     = "endpointslice-controller.k8s.io"
	managedMirror    = "endpointslicemirroring-controller.k8s.io"
	labelEndpointsBy = "endpoints.kubernetes.io/managed-by"
	managedEndpoints = "endpoint-controller"
)

// Slices are what the data plane waits for; Endpoints follow on workers of their own.
const (
	sliceWorkers     = 8
	endpointsWorkers = 4
)

// Controller is the endpoints loop.
type Controller struct {
	registry  *resource.Registry
	recorder  *event.Recorder
	slices    *controller.Queue[controller.Key]
	endpoints *controller.Queue[controller.Key]
	mirrors   *controller.Queue[controller.Key]

	// Pods by label ("key=value"), and services by one label of their selector: the services
	// of a pod, and the pods of a service, are found without looking at all of them.
	pods       *controller.View[*corev1.Pod]
	services   *controller.View[*corev1.Service]
	sliceView  *controller.View[*discoveryv1.EndpointSlice]
	legacyView *controller.View[*corev1.Endpoints]

	mirrorRecorder *event.Recorder
	mirroredMu     sync.Mutex
	mirrored       map[controller.Key]string // the state of Endpoints that was mirrored last

	changes changes

	triggersMu sync.Mutex
	triggers   map[controller.Key]time.Time
}

// New makes the loop; mirrors records the events about what is mirrored. It runs once.
func New(registry *resource.Registry, recorder, mirrors *event.Recorder) *Controller {
	return &Controller{
		registry: registry, recorder: recorder,
		slices:    controller.NewQueue[controller.Key]("endpointslices"),
		endpoints: controller.NewQueue[controller.Key]("endpoints"),
		mirrors:   controller.NewQueue[controller.Key]("endpointslice mirroring"),
		pods:      controller.NewView(func(p *corev1.Pod) []controller.Key { return labelGroups(p.Namespace, p.Labels) }),
		services:  controller.NewView(selectorGroup),
		sliceView: controller.NewView(serviceGroup),
		legacyView: controller.NewView(func(e *corev1.Endpoints) []controller.Key {
			return []controller.Key{controller.KeyOf(e)}
		}),
		mirrorRecorder: mirrors, mirrored: map[controller.Key]string{},
		triggers: map[controller.Key]time.Time{},
		changes:  changes{pods: map[controller.Key]map[string]struct{}{}},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.EndpointSlices, c.sliceChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Endpoints, c.endpointsChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	// Services last: when the workers start, the views have everything that endpoints are made from.
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Services, c.serviceChanged)
	wg.Go(func() { c.slices.Run(ctx, sliceWorkers, c.syncSlices) })
	wg.Go(func() { c.endpoints.Run(ctx, endpointsWorkers, c.syncEndpoints) })
	wg.Go(func() { c.mirrors.Run(ctx, endpointsWorkers, c.syncMirror) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) enqueue(key controller.Key) {
	c.changes.everything(key)
	c.slices.Add(key)
	c.endpoints.Add(key)
	c.mirrors.Add(key)
}

func (c *Controller) serviceChanged(old, cur *corev1.Service, revision int64) {
	c.services.Deliver(old, cur, cur == nil, revision)
	if cur != nil {
		c.enqueue(controller.KeyOf(cur))
	} else {
		c.enqueue(controller.KeyOf(old))
	}
}

func (c *Controller) podChanged(old, cur *corev1.Pod, revision int64) {
	c.pods.Deliver(old, cur, cur == nil, revision)
	concerned := map[controller.Key]struct{}{}
	// The services of both states: a pod whose labels changed leaves some services and joins others.
	if old != nil && (cur == nil || endpointChanged(old, cur) || !labels.Equals(old.Labels, cur.Labels)) {
		c.servicesOf(old, concerned)
	}
	if cur != nil && (old == nil || endpointChanged(old, cur) || !labels.Equals(old.Labels, cur.Labels)) {
		c.servicesOf(cur, concerned)
	}
	for key := range concerned {
		c.trigger(key, old, cur)
		for _, pod := range []*corev1.Pod{old, cur} {
			if pod != nil {
				c.changes.pod(key, pod.Name)
			}
		}
		c.slices.Add(key)
		c.endpoints.AddAfter(key, c.patience(key))
	}
}

// servicesOf adds the services that select a pod.
func (c *Controller) servicesOf(pod *corev1.Pod, into map[controller.Key]struct{}) {
	for _, group := range labelGroups(pod.Namespace, pod.Labels) {
		for _, s := range c.services.Group(group) {
			if labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				into[controller.KeyOf(s)] = struct{}{}
			}
		}
	}
}

// podsOf returns the pods that a service selects.
func (c *Controller) podsOf(service *corev1.Service) []*corev1.Pod {
	selector := labels.SelectorFromValidatedSet(service.Spec.Selector)
	return slices.DeleteFunc(c.pods.Smallest(labelGroups(service.Namespace, service.Spec.Selector)), func(p *corev1.Pod) bool {
		return !selector.Matches(labels.Set(p.Labels))
	})
}

func (c *Controller) sliceChanged(old, cur *discoveryv1.EndpointSlice, revision int64) {
	if !c.sliceView.Deliver(old, cur, cur == nil, revision) {
		return
	}
	for _, s := range []*discoveryv1.EndpointSlice{old, cur} {
		if s == nil {
			continue
		}
		for _, key := range serviceGroup(s) {
			switch s.Labels[discoveryv1.LabelManagedBy] {
			case managedSlice:
				c.changes.everything(key)
				c.slices.Add(key)
			case managedMirror:
				c.mirrors.Add(key)
			}
		}
	}
}

func (c *Controller) endpointsChanged(old, cur *corev1.Endpoints, revision int64) {
	changed := c.legacyView.Deliver(old, cur, cur == nil, revision)
	key := controller.Key{}
	if cur != nil {
		key = controller.KeyOf(cur)
	} else {
		key = controller.KeyOf(old)
	}
	if changed {
		c.endpoints.Add(key)
	}
	c.mirrors.Add(key)
}

// gather is how long changes of a large Endpoints object are collected: it is one object, and each write writes all of it.
const gather = 100 * time.Millisecond

// patience is how long the Endpoints of a service may wait for more changes.
func (c *Controller) patience(key controller.Key) time.Duration {
	size := 0
	if e := c.endpointsNow(key); e != nil {
		for _, s := range e.Subsets {
			size += len(s.Addresses) + len(s.NotReadyAddresses)
		}
	}
	if size < maxPerSlice {
		return 0
	}
	return gather
}

// nodeChanged queues the services of the pods on a node that was added or deleted, or changed its zone.
func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	if cur != nil && old != nil && zoneOf(old) == zoneOf(cur) {
		return
	}
	name := ""
	if cur != nil {
		name = cur.Name
	} else {
		name = old.Name
	}
	concerned := map[controller.Key]struct{}{}
	for _, pod := range resource.ByIndex[*corev1.Pod](c.registry, kinds.Pods, kinds.PodsByNode, name) {
		c.servicesOf(pod, concerned)
	}
	for key := range concerned {
		c.changes.everything(key)
		c.slices.Add(key)
	}
}

func zoneOf(node *corev1.Node) string { return node.Labels[corev1.LabelTopologyZone] }

// labelGroups names one group per label.
func labelGroups(namespace string, set map[string]string) []controller.Key {
	groups := make([]controller.Key, 0, len(set))
	for k, v := range set {
		groups = append(groups, controller.Key{Namespace: namespace, Name: k + "=" + v})
	}
	return groups
}

// selectorGroup is the group of a service: any one label of its selector, always the same.
func selectorGroup(s *corev1.Service) []controller.Key {
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	keys := make([]string, 0, len(s.Spec.Selector))
	for k := range s.Spec.Selector {
		keys = append(keys, k)
	}
	first := slices.Min(keys)
	return []controller.Key{{Namespace: s.Namespace, Name: first + "=" + s.Spec.Selector[first]}}
}

func serviceGroup(s *discoveryv1.EndpointSlice) []controller.Key {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return nil
	}
	return []controller.Key{{Namespace: s.Namespace, Name: name}}
}

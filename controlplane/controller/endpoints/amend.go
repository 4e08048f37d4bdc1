package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
)

// changes notes which pods of a service changed since its slices were written, so
// that a change of one among many costs the one. What is not noted pod by pod is
// noted as everything; so is what could not be written.
type changes struct {
	mu   sync.Mutex
	pods map[controller.Key]map[string]struct{} // service -> names of pods; nil: everything
}

func (c *changes) everything(service controller.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[service] = nil
}

func (c *changes) pod(service controller.Key, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names, noted := c.pods[service]
	switch {
	case !noted:
		c.pods[service] = map[string]struct{}{name: {}}
	case names != nil:
		names[name] = struct{}{}
	}
}

// pop returns the pods to look at; nil if that is all of them.
func (c *changes) pop(service controller.Key) map[string]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := c.pods[service]
	delete(c.pods, service)
	return names
}

// place is an endpoint that a pod should have, and the slices that may hold it.
type place struct {
	addressType discoveryv1.AddressType
	ports       []discoveryv1.EndpointPort
	endpoint    discoveryv1.Endpoint
}

// places works out the endpoints of one pod of a service: one per family.
func (c *Controller) places(service *corev1.Service, pod *corev1.Pod) (list []place) {
	if !reachable(pod, true) {
		return nil
	}
	zone, known := c.zone(pod.Spec.NodeName)
	// A pod outlives its node in the store for a while: nobody reaches it there.
	if !known && !service.Spec.PublishNotReadyAddresses {
		return nil
	}
	for _, family := range familiesOf(service) {
		if address := addressOf(pod, family); address != "" {
			list = append(list, place{discoveryv1.AddressType(family), slicePorts(pod, service), toEndpoint(pod, service, address, zone)})
		}
	}
	return list
}

// amend plans for some pods of a service only. ok is false if that needs a look at
// all: slices come or go, or say something else of the service.
func (c *Controller) amend(f frame, existing []*discoveryv1.EndpointSlice, service *corev1.Service, names map[string]struct{}) (plan, bool) {
	selector := labels.SelectorFromValidatedSet(service.Spec.Selector)
	want := make(map[string][]place, len(names))
	for name := range names {
		want[name] = nil
		if pod, ok := c.pods.Get(controller.Key{Namespace: service.Namespace, Name: name}); ok && selector.Matches(labels.Set(pod.Labels)) {
			want[name] = c.places(service, pod)
		}
	}
	update, ok := f.amend(existing, want)
	return plan{update: update}, ok
}

// draft is a slice that may be written.
type draft struct {
	*discoveryv1.EndpointSlice
	bundle  string
	changed bool
}

// amend turns the slices into what they should be if only these pods, by name,
// changed. Slices that are returned share with the old ones what did not change.
func (f frame) amend(existing []*discoveryv1.EndpointSlice, want map[string][]place) (update []*discoveryv1.EndpointSlice, ok bool) {
	drafts := make([]*draft, len(existing))
	for i, old := range existing {
		slice := *old
		slice.Annotations = maps.Clone(old.Annotations)
		if f.dress(&slice) || len(old.Endpoints) == 0 {
			return nil, false
		}
		drafts[i] = &draft{EndpointSlice: &slice, bundle: bundleKey(old.AddressType, sortPorts(old.Ports))}
	}
	left := map[string][]place{} // by bundle
	for _, places := range want {
		for _, p := range places {
			key := bundleKey(p.addressType, sortPorts(p.ports))
			left[key] = append(left[key], p)
		}
	}
	for _, d := range drafts {
		d.settle(want, left)
	}
	for bundle, rest := range left {
		if !f.lodge(drafts, bundle, rest) {
			return nil, false
		}
	}
	for _, d := range drafts {
		if len(d.Endpoints) == 0 {
			return nil, false
		}
		if d.changed {
			update = append(update, d.EndpointSlice)
		}
	}
	return update, true
}

// settle brings the endpoints of changed pods in a slice up to date, takes those
// that stay out of left, and drops the others.
func (d *draft) settle(want map[string][]place, left map[string][]place) {
	old, shared := d.Endpoints, true
	own := func(i int) {
		if shared {
			d.Endpoints, shared = slices.Clone(old[:i]), false
		}
		d.changed = true
	}
	for i := range old {
		e := &old[i]
		if e.TargetRef != nil {
			if _, concerned := want[e.TargetRef.Name]; concerned {
				now, stays := takePlace(left, d.bundle, e)
				if !stays {
					own(i)
					continue
				}
				if !sameEndpoint(e, &now) {
					own(i)
				}
				e = &now
			}
		}
		if !shared {
			d.Endpoints = append(d.Endpoints, *e)
		}
	}
}

// takePlace takes from a bundle the place of the pod that an endpoint is of.
func takePlace(left map[string][]place, bundle string, e *discoveryv1.Endpoint) (discoveryv1.Endpoint, bool) {
	i := slices.IndexFunc(left[bundle], func(p place) bool { return endpointKey(p.endpoint) == endpointKey(*e) })
	if i < 0 {
		return discoveryv1.Endpoint{}, false
	}
	found := left[bundle][i].endpoint
	left[bundle] = slices.Delete(left[bundle], i, i+1)
	return found, true
}

// lodge puts new endpoints of a bundle where a write is due anyway, then where
// they fit best; false if there is no room for all.
func (f frame) lodge(drafts []*draft, bundle string, rest []place) bool {
	var open []*draft
	for _, d := range drafts {
		if d.bundle == bundle && len(d.Endpoints) < f.perSlice {
			open = append(open, d)
		}
	}
	slices.SortStableFunc(open, func(a, b *draft) int {
		switch {
		case a.changed && !b.changed:
			return -1
		case b.changed && !a.changed:
			return 1
		}
		return -cmp.Compare(len(a.Endpoints), len(b.Endpoints))
	})
	slices.SortFunc(rest, func(a, b place) int { return cmp.Compare(endpointKey(a.endpoint), endpointKey(b.endpoint)) })
	for _, d := range open {
		n := min(f.perSlice-len(d.Endpoints), len(rest))
		if n == 0 {
			break
		}
		d.Endpoints, d.changed = slices.Clone(d.Endpoints), true
		for _, p := range rest[:n] {
			d.Endpoints = append(d.Endpoints, p.endpoint)
		}
		rest = rest[n:]
	}
	return len(rest) == 0
}

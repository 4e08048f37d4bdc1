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

// changes records which pods of a service changed since its slices were written, so that
// a change of one pod costs work for one pod. A change that is not of single pods is
// recorded as everything; so is a write that failed.
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
	// A pod stays in the store for a while after its node was deleted: it cannot be reached.
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

// amend plans for some pods of a service only. ok is false if all pods have to be looked
// at: slices are to be created or deleted, or their labels and annotations to be changed.
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
	unplaced := map[string][]place{} // by bundle
	for _, places := range want {
		for _, p := range places {
			key := bundleKey(p.addressType, sortPorts(p.ports))
			unplaced[key] = append(unplaced[key], p)
		}
	}
	for _, d := range drafts {
		d.settle(want, unplaced)
	}
	for bundle, rest := range unplaced {
		if !f.distribute(drafts, bundle, rest) {
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

// settle brings the endpoints of changed pods in a slice up to date: it removes those
// that stay from unplaced, and drops the others.
func (d *draft) settle(want map[string][]place, unplaced map[string][]place) {
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
				now, stays := takePlace(unplaced, d.bundle, e)
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

// takePlace removes from a bundle the place of an endpoint's pod, and returns its endpoint.
func takePlace(unplaced map[string][]place, bundle string, e *discoveryv1.Endpoint) (discoveryv1.Endpoint, bool) {
	i := slices.IndexFunc(unplaced[bundle], func(p place) bool { return endpointKey(p.endpoint) == endpointKey(*e) })
	if i < 0 {
		return discoveryv1.Endpoint{}, false
	}
	found := unplaced[bundle][i].endpoint
	unplaced[bundle] = slices.Delete(unplaced[bundle], i, i+1)
	return found, true
}

// distribute adds new endpoints of a bundle to slices that are written anyway, then to
// those where they fit best; false if there is no room for all.
func (f frame) distribute(drafts []*draft, bundle string, rest []place) bool {
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

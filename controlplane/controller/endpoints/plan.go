package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// maxPerSlice is the most endpoints that a slice is filled with.
const maxPerSlice = 100

// bundle is the set of endpoints that share an address family and ports.
type bundle struct {
	addressType discoveryv1.AddressType
	ports       []discoveryv1.EndpointPort
	endpoints   []discoveryv1.Endpoint
}

// bundles gathers endpoints by family and ports.
type bundles map[string]*bundle

func (b bundles) add(addressType discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) {
	ports = sortPorts(ports)
	key := bundleKey(addressType, ports)
	in := b[key]
	if in == nil {
		in = &bundle{addressType: addressType, ports: ports}
		b[key] = in
	}
	in.endpoints = append(in.endpoints, endpoints...)
}

// sortPorts sorts ports so that equal sets have equal keys. It never returns nil: nil ports mean all ports.
func sortPorts(ports []discoveryv1.EndpointPort) []discoveryv1.EndpointPort {
	sorted := append([]discoveryv1.EndpointPort{}, ports...)
	slices.SortFunc(sorted, func(a, b discoveryv1.EndpointPort) int { return cmp.Compare(portKey(a), portKey(b)) })
	return sorted
}

func bundleKey(addressType discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	var key strings.Builder
	key.WriteString(string(addressType))
	for _, p := range ports {
		key.WriteByte('|')
		key.WriteString(portKey(p))
	}
	return key.String()
}

// portKey is called for every endpoint, so it has to be cheap.
func portKey(p discoveryv1.EndpointPort) string {
	return val(p.Name) + "/" + string(val(p.Protocol)) + "/" + strconv.Itoa(int(val(p.Port))) + "/" + val(p.AppProtocol)
}

func val[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// frame is what all slices of one service have in common.
type frame struct {
	generateName string
	namespace    string
	labels       map[string]string
	annotations  map[string]string
	owner        metav1.OwnerReference
	perSlice     int  // how many endpoints a slice is filled with
	exact        bool // the slices have these annotations and no others
}

// plan is what to write, in this order, so that no endpoint is missing in
// between: updates and creates before deletes.
type plan struct {
	create, update, delete []*discoveryv1.EndpointSlice
}

// makePlan finds the fewest writes that turn the existing slices into the
// wanted ones. Endpoints stay in the slice that they are in.
func makePlan(f frame, existing []*discoveryv1.EndpointSlice, wanted bundles) plan {
	// By age: of two slices that could be filled or deleted the older one is kept.
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	have := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		key := bundleKey(s.AddressType, sortPorts(s.Ports))
		have[key] = append(have[key], s)
	}
	keys := make([]string, 0, len(wanted))
	for key := range wanted {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var p plan
	for _, key := range keys {
		p.fill(f, have[key], wanted[key])
		delete(have, key)
	}
	for _, s := range existing {
		if slices.Contains(have[bundleKey(s.AddressType, sortPorts(s.Ports))], s) {
			p.delete = append(p.delete, s)
		}
	}
	p.reuse(f)
	return p
}

// fill distributes the endpoints of one bundle over its slices.
func (p *plan) fill(f frame, existing []*discoveryv1.EndpointSlice, want *bundle) {
	unplaced := map[string]discoveryv1.Endpoint{}
	for _, e := range want.endpoints {
		unplaced[endpointKey(e)] = e
	}
	type state struct {
		slice   *discoveryv1.EndpointSlice
		changed bool
	}
	states := make([]*state, len(existing))
	for i, old := range existing {
		slice, changed := keep(f, old, unplaced)
		states[i] = &state{slice: slice, changed: changed}
	}
	rest := make([]discoveryv1.Endpoint, 0, len(unplaced))
	for _, e := range unplaced {
		rest = append(rest, e)
	}
	slices.SortFunc(rest, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(endpointKey(a), endpointKey(b)) })
	put := func(s *state) {
		n := min(f.perSlice-len(s.slice.Endpoints), len(rest))
		if n > 0 {
			s.slice.Endpoints = append(s.slice.Endpoints, rest[:n]...)
			s.changed = true
			rest = rest[n:]
		}
	}
	// First slices that are written anyway, then those where the rest fits best.
	for _, s := range states {
		if s.changed && len(s.slice.Endpoints) > 0 {
			put(s)
		}
	}
	byRoom := slices.Clone(states)
	slices.SortStableFunc(byRoom, func(a, b *state) int { return -cmp.Compare(len(a.slice.Endpoints), len(b.slice.Endpoints)) })
	for _, s := range byRoom {
		if f.perSlice-len(s.slice.Endpoints) >= len(rest) {
			put(s)
			break
		}
	}
	for _, s := range byRoom {
		put(s)
	}
	for len(rest) > 0 {
		n := min(f.perSlice, len(rest))
		p.create = append(p.create, f.newSlice(want, rest[:n]))
		rest = rest[n:]
	}
	// A service without endpoints keeps one empty slice, which says that it has none.
	for i, s := range states {
		switch {
		case len(s.slice.Endpoints) == 0 && (len(want.endpoints) > 0 || i > 0):
			p.delete = append(p.delete, s.slice)
		case s.changed:
			p.update = append(p.update, s.slice)
		}
	}
	if len(want.endpoints) == 0 && len(states) == 0 {
		p.create = append(p.create, f.newSlice(want, nil))
	}
}

// reuse turns pairs of a create and a delete into one update: ports may change, the family may not.
func (p *plan) reuse(f frame) {
	for _, fresh := range p.create {
		i := slices.IndexFunc(p.delete, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == fresh.AddressType })
		if i < 0 {
			continue
		}
		old := p.delete[i].DeepCopy()
		p.delete = slices.Delete(p.delete, i, i+1)
		old.Ports, old.Endpoints = fresh.Ports, fresh.Endpoints
		f.dress(old)
		p.update = append(p.update, old)
		fresh.GenerateName = ""
	}
	p.create = slices.DeleteFunc(p.create, func(s *discoveryv1.EndpointSlice) bool { return s.GenerateName == "" })
}

// keep returns the slice with those of its endpoints that are wanted, which it removes
// from unplaced, and whether that differs from the old slice. Unchanged parts are shared
// with the old one, so that many endpoints are not copied.
func keep(f frame, old *discoveryv1.EndpointSlice, unplaced map[string]discoveryv1.Endpoint) (*discoveryv1.EndpointSlice, bool) {
	slice := *old
	slice.Annotations, slice.Endpoints = maps.Clone(old.Annotations), make([]discoveryv1.Endpoint, 0, len(old.Endpoints))
	changed := f.dress(&slice)
	for i := range old.Endpoints {
		key := endpointKey(old.Endpoints[i])
		want, ok := unplaced[key]
		if !ok {
			changed = true
			continue
		}
		delete(unplaced, key)
		slice.Endpoints = append(slice.Endpoints, want)
		changed = changed || !sameEndpoint(&old.Endpoints[i], &want)
	}
	return &slice, changed
}

// sameEndpoint says whether two states of an endpoint are equal.
func sameEndpoint(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) &&
		ptr.Equal(a.Conditions.Ready, b.Conditions.Ready) && ptr.Equal(a.Conditions.Serving, b.Conditions.Serving) &&
		ptr.Equal(a.Conditions.Terminating, b.Conditions.Terminating) &&
		ptr.Equal(a.NodeName, b.NodeName) && ptr.Equal(a.Zone, b.Zone) && ptr.Equal(a.Hostname, b.Hostname) &&
		ptr.Equal(a.TargetRef, b.TargetRef) && len(a.DeprecatedTopology) == len(b.DeprecatedTopology) &&
		equality.Semantic.DeepEqual(a.Hints, b.Hints)
}

// dress sets what slices have in common and says whether anything changed. Another
// trigger time alone is no change.
func (f frame) dress(slice *discoveryv1.EndpointSlice) bool {
	const trigger = corev1.EndpointsLastChangeTriggerTime
	changed := !maps.Equal(slice.Labels, f.labels)
	slice.Labels = f.labels
	for k := range slice.Annotations {
		if _, wanted := f.annotations[k]; !wanted && (f.exact || k == trigger) {
			delete(slice.Annotations, k)
			changed = changed || k != trigger
		}
	}
	for k, v := range f.annotations {
		if have, ok := slice.Annotations[k]; ok && have == v {
			continue
		}
		if slice.Annotations == nil {
			slice.Annotations = map[string]string{}
		}
		slice.Annotations[k] = v
		changed = changed || k != trigger
	}
	if !metav1.IsControlledBy(slice, &metav1.ObjectMeta{UID: f.owner.UID}) {
		slice.OwnerReferences = []metav1.OwnerReference{f.owner}
		changed = true
	}
	return changed
}

func (f frame) newSlice(want *bundle, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{GenerateName: f.generateName, Namespace: f.namespace},
		AddressType: want.addressType,
		Ports:       want.ports,
		Endpoints:   slices.Clone(endpoints),
	}
	f.dress(slice)
	return slice
}

// endpointKey is the same for two states of one endpoint.
func endpointKey(e discoveryv1.Endpoint) string {
	key := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		key += "/" + string(e.TargetRef.UID)
	}
	return key
}

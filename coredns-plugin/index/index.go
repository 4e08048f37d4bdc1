// Package index holds what the cluster's DNS answers are made from: for every
// service one immutable snapshot, found by name or by address without a lock.
//
// One writer (the etcd watch) calls Put… and Delete…; any number of readers call
// Service, Namespace, Owner and HasPod. The package reads no etcd and handles no DNS
// messages.
package index

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Index is the set of names that the cluster serves.
type Index struct {
	// Readers' side. Values are never changed once stored.
	services   sync.Map // serviceKey -> *Service
	namespaces sync.Map // string -> struct{}
	owners     sync.Map // netip.Addr -> []Owner
	pods       sync.Map // podKey -> struct{}

	// Writer's side: the sources that snapshots are made from.
	mu       sync.Mutex
	sources  map[serviceKey]*sources
	podAddrs map[objectKey][]netip.Addr
	// sliceOf is the service that a slice was added to, since a deleted slice is given by
	// name only and a slice's label may change.
	sliceOf map[objectKey]serviceKey
}

type objectKey struct{ namespace, name string }

type serviceKey = objectKey

type podKey struct {
	namespace string
	addr      netip.Addr
}

// sources is everything that one service's snapshot is built from.
type sources struct {
	service *corev1.Service
	slices  map[string]*discoveryv1.EndpointSlice
}

// Owner says which name an address belongs to.
type Owner struct {
	Service *Service
	// Endpoint is nil where the address is the service's own.
	Endpoint *Endpoint
}

// New returns an empty index.
func New() *Index {
	return &Index{
		sources:  map[serviceKey]*sources{},
		podAddrs: map[objectKey][]netip.Addr{},
		sliceOf:  map[objectKey]serviceKey{},
	}
}

// Service returns the snapshot of a service, nil if there is none.
func (x *Index) Service(namespace, name string) *Service {
	v, ok := x.services.Load(serviceKey{namespace, name})
	if !ok {
		return nil
	}
	return v.(*Service)
}

// Namespace says whether a namespace exists.
func (x *Index) Namespace(name string) bool {
	_, ok := x.namespaces.Load(name)
	return ok
}

// Owner returns the services and endpoints that have the address.
func (x *Index) Owner(addr netip.Addr) []Owner {
	v, ok := x.owners.Load(addr)
	if !ok {
		return nil
	}
	return v.([]Owner)
}

// HasPod says whether a pod of the namespace has the address.
func (x *Index) HasPod(namespace string, addr netip.Addr) bool {
	_, ok := x.pods.Load(podKey{namespace, addr})
	return ok
}

// PutNamespace adds a namespace.
func (x *Index) PutNamespace(name string) { x.namespaces.Store(name, struct{}{}) }

// DeleteNamespace removes a namespace.
func (x *Index) DeleteNamespace(name string) { x.namespaces.Delete(name) }

// PutService adds or replaces a service.
func (x *Index) PutService(service *corev1.Service) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := serviceKey{service.Namespace, service.Name}
	x.source(key).service = service
	x.rebuild(key)
}

// DeleteService removes a service; its slices are kept in case it is created again.
func (x *Index) DeleteService(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := serviceKey{namespace, name}
	x.source(key).service = nil
	x.rebuild(key)
}

// PutSlice adds or replaces an endpoint slice.
func (x *Index) PutSlice(slice *discoveryv1.EndpointSlice) {
	x.mu.Lock()
	defer x.mu.Unlock()
	id := objectKey{slice.Namespace, slice.Name}
	key := serviceKey{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}
	if old, ok := x.sliceOf[id]; ok && old != key {
		x.dropSlice(id, old)
	}
	if key.name == "" {
		return
	}
	x.sliceOf[id] = key
	x.source(key).slices[slice.Name] = slice
	x.rebuild(key)
}

// DeleteSlice removes an endpoint slice.
func (x *Index) DeleteSlice(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	id := objectKey{namespace, name}
	if key, ok := x.sliceOf[id]; ok {
		x.dropSlice(id, key)
	}
}

// PutPod adds or replaces a pod's addresses.
func (x *Index) PutPod(pod *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	id := objectKey{pod.Namespace, pod.Name}
	var addrs []netip.Addr
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && !finished {
			addrs = append(addrs, a.Unmap())
		}
	}
	x.replacePod(id, addrs)
}

// DeletePod removes a pod.
func (x *Index) DeletePod(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.replacePod(objectKey{namespace, name}, nil)
}

func (x *Index) replacePod(id objectKey, addrs []netip.Addr) {
	for _, a := range x.podAddrs[id] {
		x.pods.Delete(podKey{id.namespace, a})
	}
	delete(x.podAddrs, id)
	if len(addrs) == 0 {
		return
	}
	x.podAddrs[id] = addrs
	for _, a := range addrs {
		x.pods.Store(podKey{id.namespace, a}, struct{}{})
	}
}

func (x *Index) source(key serviceKey) *sources {
	s, ok := x.sources[key]
	if !ok {
		s = &sources{slices: map[string]*discoveryv1.EndpointSlice{}}
		x.sources[key] = s
	}
	return s
}

func (x *Index) dropSlice(id objectKey, key serviceKey) {
	delete(x.sliceOf, id)
	delete(x.source(key).slices, id.name)
	x.rebuild(key)
}

// rebuild replaces one service's snapshot. The new snapshot is visible by name
// before its addresses point to it, and the old one's addresses are removed last, so that
// a reader finds an old or a new answer, never none.
func (x *Index) rebuild(key serviceKey) {
	src := x.sources[key]
	old := x.Service(key.namespace, key.name)
	var next *Service
	if src.service != nil {
		next = build(src.service, src.slices)
		x.services.Store(key, next)
	} else {
		x.services.Delete(key)
		if len(src.slices) == 0 {
			delete(x.sources, key)
		}
	}
	x.replaceOwner(old, next)
}

func (x *Index) replaceOwner(old, next *Service) {
	// Every address of either snapshot is a key, even if it has no owner any more.
	var nothing []Owner
	touched := map[netip.Addr][]Owner{}
	if next != nil {
		for _, a := range next.Addrs {
			touched[a] = append(touched[a], Owner{Service: next})
		}
		for i := range next.Endpoints {
			e := &next.Endpoints[i]
			touched[e.Addr] = append(touched[e.Addr], Owner{Service: next, Endpoint: e})
		}
	}
	if old != nil {
		for _, a := range old.Addrs {
			touched[a] = append(touched[a], nothing...)
		}
		for i := range old.Endpoints {
			touched[old.Endpoints[i].Addr] = append(touched[old.Endpoints[i].Addr], nothing...)
		}
	}
	for addr, owners := range touched {
		for _, o := range x.Owner(addr) {
			if o.Service != old {
				owners = append(owners, o)
			}
		}
		if len(owners) == 0 {
			x.owners.Delete(addr)
			continue
		}
		x.owners.Store(addr, owners)
	}
}

// Package services translates the API's services, their endpoints and nodes to this node's data plane: every port of a service with
// a cluster address becomes a service of the plane, as do the host ports of this node's pods; every other node a route, an address
// to send to, and a mark whether it is down. It answers load balancers that ask whether a service has endpoints here, and reports
// parts of a Service that do not work in its events.
//
// It owns neither maps nor routes, and decides nothing that Kubernetes leaves open: it translates one service per change.
package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
)

// Plane is the service data plane.
type Plane interface {
	SetService(service.Service)
	DeleteService(name string)
	Synced()
	SetNodeDown(node string, down bool)
	SetNodeAddresses(node string, addrs []netip.Addr)
	SetNodeUnwraps(node string, does bool)
	AwaitProblems(context.Context) map[string][]service.Problem
	// Flush waits until the kernel's maps have all that was set before.
	Flush(context.Context) error
}

// Router sets the routes to other nodes' pods.
type Router interface {
	SyncRoutes([]podnet.Peer) error
}

// Announcer makes this node answer for load-balancer addresses that it owns.
type Announcer interface {
	// Own sets the list of them; an address that is not in it is no longer owned.
	Own(addrs []netip.Addr)
}

// Config configures a watcher.
type Config struct {
	Factory      informers.SharedInformerFactory
	Node         string // this one
	Plane        Plane
	Router       Router
	Announcer    Announcer // nil: this node answers for none
	Recorder     record.EventRecorder
	ServiceCIDRs []netip.Prefix // no endpoint may be in them
	// PodCIDRs returns the cluster's ranges of pods: no external address may be in them, nor in the services'; nil: there are none.
	PodCIDRs func() []netip.Prefix
	// OwnPorts are TCP ports of the node's own programs, which are never forwarded as host ports, whether a program listens or not.
	// Nor are ports at which Listening finds a socket; nil: none is found.
	OwnPorts  []uint16
	Listening Listening
	// Unreachable are the nodes that are marked as down in the plane for another reason than their Node objects; nil: none is.
	Unreachable func() map[string]bool
	// Applied is called when the data plane's maps have all endpoint slices up to a revision; withdrawn: endpoints that are not ready are
	// among those that are new. Nil: nobody asks.
	Applied func(revision uint64, withdrawn bool)
	// Await waits until all nodes that report it have applied a revision, or ctx ends, and returns those that have not. Nil, or an error:
	// they get a short time.
	Await func(ctx context.Context, revision uint64) (pending []string, err error)
	// Adopted is closed when the host ports of adopted pods have been set; nil if there are none.
	Adopted <-chan struct{}
}

// Watcher follows services, endpoint slices and nodes.
type Watcher struct {
	cfg   Config
	queue workqueue.TypedRateLimitingInterface[string] // service keys, and the keys below

	services  cache.SharedIndexInformer
	slices    cache.SharedIndexInformer
	nodes     cache.SharedIndexInformer
	installed map[string][]string // service key -> names in the plane; used by the only worker
	health    *healthServers
	reporter  *reporter

	mu       sync.Mutex
	peers    map[string]podnet.Peer
	down     map[string]bool
	hosts    map[netip.Addr]string // addresses of all nodes -> one that has it
	servers  []netip.Addr          // where the API servers are
	zone     string
	owned    map[string][]netip.Addr // service key -> addresses that this node announces
	claimed  map[netip.Addr]string   // cluster addresses of services -> key of the service
	draining map[string]*drain       // by pod UID
	applied  *applied
	latency  *latency

	portsMu   sync.Mutex
	hostPorts map[string]*podPorts // by pod UID
}

// Keys that cannot be a service's, which has a slash.
const (
	routesKey   = "routes"
	everyKey    = "every service"
	externalKey = "services with external addresses"
)

const (
	bySvc = "service"
	byPod = "pod"
)

// New prepares a watcher on the node's informers; nothing reaches plane and router before Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.PodCIDRs == nil {
		cfg.PodCIDRs = func() []netip.Prefix { return nil }
	}
	w := &Watcher{
		cfg: cfg,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 30*time.Second)),
		services:  cfg.Factory.Core().V1().Services().Informer(),
		slices:    cfg.Factory.Discovery().V1().EndpointSlices().Informer(),
		nodes:     cfg.Factory.Core().V1().Nodes().Informer(),
		installed: map[string][]string{},
		peers:     map[string]podnet.Peer{},
		down:      map[string]bool{},
		hosts:     map[netip.Addr]string{},
		owned:     map[string][]netip.Addr{},
		claimed:   map[netip.Addr]string{},
		draining:  map[string]*drain{},
		applied:   newApplied(),
		latency:   newLatency(),
		hostPorts: map[string]*podPorts{},
	}
	w.reporter = newReporter(cfg.Recorder, cfg.Plane.AwaitProblems, w.Lister())
	w.health = newHealthServers(w.reporter.healthPort)
	slim := newSlimmer(cfg.Node, w.latency.annotations).slim
	if err := errors.Join(w.services.SetTransform(slim), w.slices.SetTransform(slim)); err != nil {
		return nil, fmt.Errorf("keep services and endpoint slices small: %w", err)
	}
	if err := w.slices.AddIndexers(cache.Indexers{
		bySvc: func(obj any) ([]string, error) { return []string{sliceService(obj.(*discoveryv1.EndpointSlice))}, nil },
		byPod: func(obj any) ([]string, error) { return podsOf(obj.(*discoveryv1.EndpointSlice), cfg.Node), nil },
	}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	return w, nil
}

// Lister and HasSynced are of this watcher's cached services.
func (w *Watcher) Lister() corelisters.ServiceLister {
	return corelisters.NewServiceLister(w.services.GetIndexer())
}
func (w *Watcher) HasSynced() bool { return w.services.HasSynced() }

// Run translates until ctx ends; the factory's informers must be running. The plane's earlier content stays in effect until every
// list is complete and installed, so that a restart removes nothing.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	defer w.queue.ShutDown()
	defer w.health.close()
	synced, err := w.handle()
	if err != nil && ctx.Err() != nil {
		return nil // the informers have ended first
	}
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	for _, key := range w.services.GetStore().ListKeys() {
		w.syncService(key)
	}
	if w.cfg.Adopted != nil {
		select {
		case <-w.cfg.Adopted:
		case <-ctx.Done():
			return nil
		}
	}
	w.cfg.Plane.Synced()
	w.queue.Add(routesKey) // also if there is no other node: the router must see the empty list
	slog.Info("services installed", "services", len(w.installed))
	beside.Go(func() { w.reporter.run(ctx) })
	beside.Go(func() { w.followApplied(ctx) })
	if w.cfg.Listening != nil {
		beside.Go(func() { w.followListeners(ctx) })
	}
	stop := context.AfterFunc(ctx, w.queue.ShutDown)
	defer stop()
	for {
		key, shutdown := w.queue.Get()
		if shutdown {
			return nil
		}
		w.sync(key)
		w.queue.Done(key)
	}
}

func (w *Watcher) handle() (synced []cache.InformerSynced, err error) {
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		funcs    cache.ResourceEventHandlerFuncs
	}{
		{w.services, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { w.serviceChanged(nil, obj) },
			UpdateFunc: func(old, obj any) { w.serviceChanged(old, obj) },
			DeleteFunc: func(obj any) { w.serviceChanged(obj, nil) },
		}},
		{w.slices, w.sliceHandler()},
		{w.nodes, cache.ResourceEventHandlerFuncs{AddFunc: w.nodeChanged, DeleteFunc: w.nodeDeleted, UpdateFunc: func(_, obj any) { w.nodeChanged(obj) }}},
	} {
		registration, err := h.informer.AddEventHandler(h.funcs)
		if err != nil {
			return nil, fmt.Errorf("watch services: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	return synced, nil
}

// serviceChanged updates the lookups across services; either side may be nil.
func (w *Watcher) serviceChanged(old, obj any) {
	w.mu.Lock()
	var key string
	if svc, ok := object[*corev1.Service](old); ok {
		key = svc.Namespace + "/" + svc.Name
		for _, addr := range servicespec.ClusterAddrs(svc) {
			if w.claimed[addr] == key { // another service may have it now
				delete(w.claimed, addr)
			}
		}
	}
	if svc, ok := object[*corev1.Service](obj); ok {
		key = svc.Namespace + "/" + svc.Name
		for _, addr := range servicespec.ClusterAddrs(svc) {
			w.claimed[addr] = key
		}
	}
	w.mu.Unlock()
	w.queue.Add(key)
}

func (w *Watcher) sync(key string) {
	switch key {
	case routesKey:
		w.syncRoutes()
	case externalKey:
		for _, obj := range w.services.GetStore().List() {
			if svc := obj.(*corev1.Service); servicespec.HasExternal(svc) {
				w.queue.Add(svc.Namespace + "/" + svc.Name)
			}
		}
		for _, obj := range w.slices.GetStore().List() {
			if slice := obj.(*discoveryv1.EndpointSlice); mayUnwrap(slice) {
				w.queue.Add(sliceService(slice))
			}
		}
	case everyKey:
		for _, k := range w.services.GetStore().ListKeys() {
			w.queue.Add(k)
		}
	default:
		w.applied.giving(key, func() { w.syncService(key) })
	}
}

// syncService updates the plane's services for one service of the API.
func (w *Watcher) syncService(key string) {
	var wanted translation
	var svc *corev1.Service
	if obj, ok, _ := w.services.GetStore().GetByKey(key); ok {
		slices, err := w.slices.GetIndexer().ByIndex(bySvc, key)
		if err != nil {
			slog.Error("endpoint slices not found", "service", key, "err", err)
			return
		}
		svc = obj.(*corev1.Service)
		wanted = w.view().translate(svc, slices)
	}
	names := make([]string, 0, len(wanted.services))
	for _, s := range wanted.services {
		names = append(names, s.Name)
	}
	// Old ones first: a port that was renamed has the same address.
	for _, name := range w.installed[key] {
		if !contains(names, name) {
			w.cfg.Plane.DeleteService(name)
		}
	}
	for _, s := range wanted.services {
		w.cfg.Plane.SetService(s)
	}
	if len(names) > 0 {
		w.installed[key] = names
	} else {
		delete(w.installed, key)
	}
	w.health.set(key, wanted.health)
	w.announce(key, svc)
	w.reporter.translated(key, wanted.warnings)
}

// view returns this node's present state for translation.
func (w *Watcher) view() *view {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &view{node: w.cfg.Node, zone: w.zone, draining: w.isDraining, reserved: w.reserved, inside: w.inside, host: w.hostWith}
}

func (w *Watcher) reserved(addr netip.Addr) string {
	return servicespec.Reserved(addr, w.cfg.ServiceCIDRs, func(addr netip.Addr) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.claimed[addr]
	})
}

// announce updates the addresses that this node answers for.
func (w *Watcher) announce(key string, svc *corev1.Service) {
	if w.cfg.Announcer == nil {
		return
	}
	var addrs []netip.Addr
	if svc != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Annotations[servicespec.AnnouncedByAnnotation] == w.cfg.Node {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			if addr, err := netip.ParseAddr(ingress.IP); err == nil && w.inside(addr.Unmap()) == "" {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	w.mu.Lock()
	_, had := w.owned[key]
	if len(addrs) == 0 && !had {
		w.mu.Unlock()
		return
	}
	if len(addrs) > 0 {
		w.owned[key] = addrs
	} else {
		delete(w.owned, key)
	}
	var all []netip.Addr
	for _, list := range w.owned {
		all = append(all, list...)
	}
	w.mu.Unlock()
	w.cfg.Announcer.Own(all)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// object unwraps an object passed to a deletion handler.
func object[T any](obj any) (T, bool) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	o, ok := obj.(T)
	return o, ok
}

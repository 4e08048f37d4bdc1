// Package services carries what the API server says about services, their endpoints and other nodes to this node's data
// plane: every port of a service with a cluster address becomes a service of the plane, every other node a route and a mark
// whether it is down.
//
// It owns neither maps nor routes, and makes no decision: it translates, one service per change.
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
	"k8s.io/client-go/util/workqueue"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
)

// Plane is where services go.
type Plane interface {
	SetService(service.Service)
	DeleteService(name string)
	Synced()
	SetNodeDown(node string, down bool)
}

// Router is what routes to other nodes' pods.
type Router interface {
	SyncRoutes([]podnet.Peer) error
}

// Watcher follows services, endpoint slices and nodes.
type Watcher struct {
	node   string
	plane  Plane
	router Router
	queue  workqueue.TypedRateLimitingInterface[string] // service keys, and routesKey

	services  cache.SharedIndexInformer
	slices    cache.SharedIndexInformer
	nodes     cache.SharedIndexInformer
	installed map[string][]string // service key -> names in the plane; used by the one worker

	mu    sync.Mutex
	peers map[string]podnet.Peer
	down  map[string]bool
}

// routesKey cannot be a service's key, which has a slash.
const routesKey = "routes"

const bySvc = "service"

// New prepares a watcher on the node's informers; nothing reaches plane and router before Run.
func New(factory informers.SharedInformerFactory, node string, plane Plane, router Router) (*Watcher, error) {
	w := &Watcher{
		node: node, plane: plane, router: router,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 30*time.Second)),
		services:  factory.Core().V1().Services().Informer(),
		slices:    factory.Discovery().V1().EndpointSlices().Informer(),
		nodes:     factory.Core().V1().Nodes().Informer(),
		installed: map[string][]string{},
		peers:     map[string]podnet.Peer{},
		down:      map[string]bool{},
	}
	if err := w.slices.AddIndexers(cache.Indexers{bySvc: func(obj any) ([]string, error) {
		return []string{sliceService(obj.(*discoveryv1.EndpointSlice))}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	return w, nil
}

// Lister and HasSynced give others the services that this watcher follows.
func (w *Watcher) Lister() corelisters.ServiceLister {
	return corelisters.NewServiceLister(w.services.GetIndexer())
}
func (w *Watcher) HasSynced() bool { return w.services.HasSynced() }

// Run translates until ctx ends; the factory's informers must be running. What the plane held before stays in force until
// every list is complete and installed, so that a restart takes nothing away.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.queue.ShutDown()
	synced, err := w.handle()
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	for _, key := range w.services.GetStore().ListKeys() {
		w.syncService(key)
	}
	w.plane.Synced()
	slog.Info("services installed", "services", len(w.installed))
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
	onService := func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			w.queue.Add(key)
		}
	}
	onSlice := func(obj any) {
		if s, ok := object[*discoveryv1.EndpointSlice](obj); ok {
			w.queue.Add(sliceService(s))
		}
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		funcs    cache.ResourceEventHandlerFuncs
	}{
		{w.services, cache.ResourceEventHandlerFuncs{AddFunc: onService, DeleteFunc: onService, UpdateFunc: func(_, obj any) { onService(obj) }}},
		{w.slices, cache.ResourceEventHandlerFuncs{AddFunc: onSlice, DeleteFunc: onSlice, UpdateFunc: func(old, obj any) {
			onSlice(old) // a slice may have moved to another service
			onSlice(obj)
		}}},
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

func (w *Watcher) sync(key string) {
	if key != routesKey {
		w.syncService(key)
		return
	}
	w.mu.Lock()
	peers := make([]podnet.Peer, 0, len(w.peers))
	for _, p := range w.peers {
		peers = append(peers, p)
	}
	w.mu.Unlock()
	if err := w.router.SyncRoutes(peers); err != nil {
		slog.Error("pods of other nodes are not reachable", "error", err)
		w.queue.AddRateLimited(key)
		return
	}
	w.queue.Forget(key)
}

// syncService makes the plane's services for one service what the API server says now.
func (w *Watcher) syncService(key string) {
	var wanted []service.Service
	if obj, ok, _ := w.services.GetStore().GetByKey(key); ok {
		slices, err := w.slices.GetIndexer().ByIndex(bySvc, key)
		if err != nil {
			slog.Error("endpoint slices not found", "service", key, "error", err)
			return
		}
		wanted = translate(obj.(*corev1.Service), slices)
	}
	names := make([]string, 0, len(wanted))
	present := map[string]bool{}
	for _, s := range wanted {
		names = append(names, s.Name)
		present[s.Name] = true
	}
	// Old ones first: a port that was renamed has the same address.
	for _, name := range w.installed[key] {
		if !present[name] {
			w.plane.DeleteService(name)
		}
	}
	for _, s := range wanted {
		w.plane.SetService(s)
	}
	if len(names) > 0 {
		w.installed[key] = names
	} else {
		delete(w.installed, key)
	}
}

// nodeChanged keeps the peers and their down marks. This node's own mark is never set: its pods are here, whatever the
// control plane thinks.
func (w *Watcher) nodeChanged(obj any) {
	n, ok := object[*corev1.Node](obj)
	if !ok || n.Name == w.node {
		return
	}
	peer, err := peerOf(n)
	w.mu.Lock()
	old, had := w.peers[n.Name]
	if err != nil {
		delete(w.peers, n.Name)
	} else {
		w.peers[n.Name] = peer
	}
	changed := had != (err == nil) || !old.Equal(peer)
	down := isDown(n)
	turned := w.down[n.Name] != down
	w.down[n.Name] = down
	w.mu.Unlock()
	if changed {
		w.queue.Add(routesKey)
	}
	if turned {
		slog.Info("node changed", "node", n.Name, "down", down)
		w.plane.SetNodeDown(n.Name, down)
	}
}

func (w *Watcher) nodeDeleted(obj any) {
	n, ok := object[*corev1.Node](obj)
	if !ok || n.Name == w.node {
		return
	}
	w.mu.Lock()
	delete(w.peers, n.Name)
	delete(w.down, n.Name)
	w.mu.Unlock()
	w.queue.Add(routesKey)
	w.plane.SetNodeDown(n.Name, true)
}

// isDown is false for a node that has said nothing yet.
func isDown(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionTrue
		}
	}
	return false
}

func peerOf(n *corev1.Node) (p podnet.Peer, err error) {
	p.Name = n.Name
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return podnet.Peer{}, err
		}
		p.PodCIDRs = append(p.PodCIDRs, cidr.Masked())
	}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			return podnet.Peer{}, err
		}
		p.NodeIPs = append(p.NodeIPs, addr.Unmap())
	}
	if len(p.NodeIPs) == 0 || len(p.PodCIDRs) == 0 {
		return podnet.Peer{}, errors.New("no InternalIP or no pod range")
	}
	return p, nil
}

// object unwraps what an informer hands to a deletion handler.
func object[T any](obj any) (T, bool) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	o, ok := obj.(T)
	return o, ok
}

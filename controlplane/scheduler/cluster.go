package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// host is a node and the pods placed on it. It exists without a node object as long as
// pods are bound to a node that does not exist.
type host struct {
	name        string
	node        *corev1.Node // nil: not known
	zone        string
	ready       bool // as the node's condition Ready has it
	allocatable resources
	maxPods     int64
	requested   resources
	scored      resources
	pods        int64
	ports       map[hostPort]int
}

// placement is a pod that uses room on a host: bound, or assumed to be bound until the
// store confirms or refuses it.
type placement struct {
	request *request
	host    *host
	zone    string // in which it was counted
	assumed bool
}

// group counts the placed pods that are to be spread.
type group struct {
	total  int
	byHost map[string]int
	byZone map[string]int
}

// cluster is the scheduler's state of hosts and of the room on them. It is updated with
// every change; the cost is in proportion to the change, except for a node's change of
// zone, which moves its pods.
type cluster struct {
	mu     sync.Mutex
	hosts  map[string]*host
	placed map[types.NamespacedName]*placement
	groups map[string]*group
	order  hostOrder
}

func newCluster() *cluster {
	return &cluster{
		hosts:  map[string]*host{},
		placed: map[types.NamespacedName]*placement{},
		groups: map[string]*group{},
	}
}

func (c *cluster) host(name string) *host {
	h := c.hosts[name]
	if h == nil {
		h = &host{name: name, ports: map[hostPort]int{}}
		c.hosts[name] = h
	}
	return h
}

// setNode replaces a node's state. It returns whether pods may fit now that did not before.
func (c *cluster) setNode(node *corev1.Node) (roomier bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.host(node.Name)
	old := h.node
	wasReady := h.ready
	h.node, h.ready = node, ready(node)
	h.allocatable = toResources(node.Status.Allocatable)
	h.maxPods = node.Status.Allocatable.Pods().Value()
	zone := node.Labels[corev1.LabelTopologyZone]
	if old == nil || zone != h.zone {
		if old != nil {
			c.order.remove(h)
		}
		h.zone = zone
		c.recount(h)
		c.order.add(h)
	}
	return old == nil || wasReady != h.ready || placementChanged(old, node)
}

// recount moves the pods of a host to its zone.
func (c *cluster) recount(h *host) {
	if h.pods == 0 {
		return
	}
	for _, p := range c.placed {
		if p.host == h && p.zone != h.zone {
			c.count(p, -1)
			p.zone = h.zone
			c.count(p, +1)
		}
	}
}

func (c *cluster) removeNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[name]
	if h == nil || h.node == nil {
		return
	}
	c.order.remove(h)
	h.node = nil
	c.drop(h)
}

// drop removes a host that has neither node nor pods.
func (c *cluster) drop(h *host) {
	if h.node == nil && h.pods == 0 {
		delete(c.hosts, h.name)
	}
}

// place records a pod that is bound in the store.
func (c *cluster) place(req *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(req.pod)
	if p := c.placed[key]; p != nil {
		if !p.assumed && p.request.uid == req.uid && p.host.name == req.pod.Spec.NodeName && sameNeeds(p.request, req) {
			p.request.pod = req.pod
			return
		}
		c.remove(key, p)
	}
	c.record(key, req, c.host(req.pod.Spec.NodeName), false)
}

// assume records a pod that is about to be bound. c.mu is held.
func (c *cluster) assume(req *request, h *host) { c.record(keyOf(req.pod), req, h, true) }

// forget removes an assumed pod whose binding failed.
func (c *cluster) forget(req *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(req.pod)
	if p := c.placed[key]; p != nil && p.assumed && p.request.uid == req.uid {
		c.remove(key, p)
	}
}

// free removes a pod that was deleted, or has ended, from its host, and returns the host's name; "" if it was on none.
func (c *cluster) free(pod *corev1.Pod) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(pod)
	p := c.placed[key]
	if p == nil || p.request.uid != pod.UID {
		return ""
	}
	c.remove(key, p)
	return p.host.name
}

func (c *cluster) record(key types.NamespacedName, req *request, h *host, assumed bool) {
	p := &placement{request: req, host: h, zone: h.zone, assumed: assumed}
	c.placed[key] = p
	h.requested.add(&req.needs, +1)
	h.scored.add(&req.scored, +1)
	h.pods++
	for _, port := range req.hostPorts {
		h.ports[port]++
	}
	c.count(p, +1)
}

func (c *cluster) remove(key types.NamespacedName, p *placement) {
	delete(c.placed, key)
	h := p.host
	h.requested.add(&p.request.needs, -1)
	h.scored.add(&p.request.scored, -1)
	h.pods--
	for _, port := range p.request.hostPorts {
		if h.ports[port]--; h.ports[port] == 0 {
			delete(h.ports, port)
		}
	}
	c.count(p, -1)
	c.drop(h)
}

func (c *cluster) count(p *placement, n int) {
	name := p.request.group
	if name == "" {
		return
	}
	g := c.groups[name]
	if g == nil {
		g = &group{byHost: map[string]int{}, byZone: map[string]int{}}
		c.groups[name] = g
	}
	g.total += n
	bump(g.byHost, p.host.name, n)
	bump(g.byZone, p.zone, n)
	if g.total == 0 {
		delete(c.groups, name)
	}
}

func bump(m map[string]int, key string, n int) {
	if m[key] += n; m[key] == 0 {
		delete(m, key)
	}
}

func keyOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

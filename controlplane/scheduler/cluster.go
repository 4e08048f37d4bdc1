package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// host is a node and the pods placed on it. It exists without a node object as long as
// pods are bound to a node that does not exist.
type host struct {
	// What decisions read comes first: it lies together.
	index       int32
	open        bool         // takes pods without tolerations
	ready       bool         // as the node's condition Ready has it
	node        *corev1.Node // nil: not known
	pods        int64
	maxPods     int64
	allocatable resources
	requested   resources
	scored      resources
	known       knownOf
	name        string
	zone        string
	ports       map[hostPort]int
	placed      map[*placement]struct{}
	nominees    []*placement // pods for which room is kept here, once others have left
	images      []corev1.ContainerImage
}

// placement is a pod that uses room on a host: bound, or assumed to be bound until the
// store confirms or refuses it.
type placement struct {
	request *request
	host    *host
	class   *class
	bears   []bearing
	assumed bool
	// preempted says that it has been decided to delete the pod for another one.
	preempted bool
}

// cluster is the scheduler's state of hosts and of the room on them. It is updated with
// every change; the cost is in proportion to the change, except for a node's change of
// labels or taints, which counts its pods anew.
type cluster struct {
	mu     sync.Mutex
	hosts  map[string]*host
	unused []int32 // indexes of hosts that are gone
	placed map[types.NamespacedName]*placement
	images map[string]*image
	// nominated are the nominees of all hosts; they are not placed.
	nominated  map[types.NamespacedName]*placement
	budgets    map[string]map[string]budget // by namespace and name
	priorities map[int32]int                // placed pods of each priority
	preemptAt  int                          // where the next search for victims begins
	// discouraged counts the nodes with a taint of the effect PreferNoSchedule.
	discouraged   int
	decision      int64 // counts decisions
	configuration *Configuration
	occurrences   occurrences
	order         hostOrder
	scratch       scratch
	books
	owners
}

func newCluster(configuration *Configuration) *cluster {
	return &cluster{
		configuration: configuration,
		hosts:         map[string]*host{},
		placed:        map[types.NamespacedName]*placement{},
		images:        map[string]*image{},
		nominated:     map[types.NamespacedName]*placement{},
		priorities:    map[int32]int{},
		budgets:       map[string]map[string]budget{},
		books:         newBooks(),
		owners:        newOwners(),
	}
}

func (c *cluster) host(name string) *host {
	h := c.hosts[name]
	if h == nil {
		h = &host{name: name, index: int32(len(c.hosts)), ports: map[hostPort]int{}, placed: map[*placement]struct{}{}}
		if n := len(c.unused); n > 0 {
			h.index, c.unused = c.unused[n-1], c.unused[:n-1]
		}
		c.hosts[name] = h
	}
	return h
}

// setNode replaces a node's state. It returns whether pods may fit now that did not before.
func (c *cluster) setNode(node *corev1.Node) (roomier bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.host(node.Name)
	old, wasReady := h.node, h.ready
	c.setImages(h, node.Status.Images)
	if old != nil && sameDomains(old, node) {
		h.node = node
	} else {
		c.leave(h)
		h.node = node
		c.join(h)
	}
	h.ready, h.open = ready(node), open(node)
	h.allocatable = toResources(node.Status.Allocatable)
	h.maxPods = node.Status.Allocatable.Pods().Value()
	h.known = knownOf{}
	return old == nil || wasReady != h.ready || placementChanged(old, node)
}

// join takes up a host with its node, where searches and counts find it.
func (c *cluster) join(h *host) {
	c.occurrences.nodes = true
	h.zone = h.node.Labels[corev1.LabelTopologyZone]
	c.order.add(h)
	c.joinDomains(h)
	if discourages(h.node) {
		c.discouraged++
	}
}

// leave undoes join; nothing happens to a host without a node.
func (c *cluster) leave(h *host) {
	if h.node == nil {
		return
	}
	c.occurrences.nodes = true
	c.order.remove(h)
	c.leaveDomains(h)
	if discourages(h.node) {
		c.discouraged--
	}
}

// sameDomains says whether a node's change leaves it where it was in all topologies and pools. The name of a node never changes.
func sameDomains(old, cur *corev1.Node) bool {
	return equality.Semantic.DeepEqual(old.Labels, cur.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, cur.Spec.Taints)
}

// placementChanged says whether a node's change, other than of its condition, can let pods fit that did not before.
func placementChanged(old, cur *corev1.Node) bool {
	return old.Spec.Unschedulable != cur.Spec.Unschedulable || !sameDomains(old, cur) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, cur.Status.Allocatable)
}

func (c *cluster) removeNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[name]
	if h == nil || h.node == nil {
		return
	}
	c.setImages(h, nil)
	c.leave(h)
	h.node, h.ready, h.open = nil, false, false
	c.drop(h)
}

// drop removes a host that has neither node nor pods.
func (c *cluster) drop(h *host) {
	if h.node == nil && h.pods == 0 && len(h.nominees) == 0 {
		delete(c.hosts, h.name)
		c.unused = append(c.unused, h.index)
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
	p := &placement{request: req, host: h, assumed: assumed}
	c.placed[key] = p
	c.put(p)
}

func (c *cluster) remove(key types.NamespacedName, p *placement) {
	delete(c.placed, key)
	c.lift(p)
	c.drop(p.host)
}

// put adds a placement to all that it uses and all that counts it.
func (c *cluster) put(p *placement) {
	p.host.placed[p] = struct{}{}
	c.priorities[p.request.priority]++
	p.class = c.class(p.request)
	p.class.placed[p] = struct{}{}
	c.bear(p)
	c.use(p, +1)
	c.occurrences.placed(p)
}

// lift undoes put.
func (c *cluster) lift(p *placement) {
	c.occurrences.left(p)
	c.use(p, -1)
	c.unbear(p)
	delete(p.class.placed, p)
	delete(p.host.placed, p)
	if c.priorities[p.request.priority]--; c.priorities[p.request.priority] == 0 {
		delete(c.priorities, p.request.priority)
	}
}

// use adds what a pod uses, and counts for other pods, n times: 1 or -1. It changes numbers only, so that checks that were made before still hold.
func (c *cluster) use(p *placement, n int) {
	h, req := p.host, p.request
	h.requested.add(&req.needs, int64(n))
	h.scored.add(&req.scored, int64(n))
	h.pods += int64(n)
	h.known = knownOf{}
	for _, port := range req.hostPorts {
		if h.ports[port] += n; h.ports[port] == 0 {
			delete(h.ports, port)
		}
	}
	c.contribute(p, int32(n))
}

func keyOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// sameNeeds says whether two states of a pod ask for the same.
func sameNeeds(a, b *request) bool {
	return a.classID == b.classID && a.owner == b.owner && a.deleting == b.deleting && a.priority == b.priority &&
		equality.Semantic.DeepEqual(a.pod.Spec, b.pod.Spec) &&
		a.needs.milliCPU == b.needs.milliCPU && a.needs.memory == b.needs.memory && a.needs.ephemeral == b.needs.ephemeral
}

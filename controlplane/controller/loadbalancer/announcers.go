package loadbalancer

import (
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// announcers holds which nodes may announce addresses, and which node announces which
// service's. A service has one announcer at a time.
type announcers struct {
	mu     sync.Mutex
	able   map[string]bool
	owner  map[controller.Key]string
	owned  map[string]map[controller.Key]struct{} // the same by node
	orphan map[controller.Key]struct{}            // services for which there was no node
}

func newAnnouncers() *announcers {
	return &announcers{
		able: map[string]bool{}, owner: map[controller.Key]string{},
		owned: map[string]map[controller.Key]struct{}{}, orphan: map[controller.Key]struct{}{},
	}
}

// canAnnounce says whether a node may announce addresses: it is ready, its uplinks work,
// and it is neither excluded from load balancing nor about to be removed.
func canAnnounce(node *corev1.Node) bool {
	const aboutToGo = "ToBeDeletedByClusterAutoscaler"
	if node == nil || node.DeletionTimestamp != nil {
		return false
	}
	if _, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return false
	}
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == aboutToGo }) {
		return false
	}
	if outside := controller.NodeCondition(node, servicespec.ServesOutside); outside != nil && outside.Status == corev1.ConditionFalse {
		return false
	}
	ready := controller.NodeCondition(node, corev1.NodeReady)
	return ready != nil && ready.Status == corev1.ConditionTrue
}

// setNode records whether a node may announce, and returns the services that this
// concerns: its own if it may no longer, those without a node if it may now.
func (a *announcers) setNode(name string, able bool) (concerned []controller.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.able[name] == able {
		return nil
	}
	if able {
		a.able[name] = true
		return slices.Collect(maps.Keys(a.orphan))
	}
	delete(a.able, name)
	return slices.Collect(maps.Keys(a.owned[name]))
}

// learn records the announcer that a service's annotation names, if none is recorded: a
// new leader must count the existing announcers before it chooses one.
func (a *announcers) learn(key controller.Key, node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.owner[key] == "" && node != "" {
		a.record(key, node)
	}
}

// choose returns the node that is to announce a service, "" if none can. among are the
// nodes to choose from, nil for all. A service stays with the node that it had; a new
// node is the one with the fewest services.
func (a *announcers) choose(key controller.Key, among map[string]bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	fit := func(node string) bool { return a.able[node] && (among == nil || among[node]) }
	if owner := a.owner[key]; owner != "" && fit(owner) {
		return owner
	}
	best, rank := "", uint64(0)
	consider := func(node string) {
		if !fit(node) {
			return
		}
		fewer, r := len(a.owned[node])-len(a.owned[best]), weight(key, node)
		if best == "" || fewer < 0 || fewer == 0 && r > rank {
			best, rank = node, r
		}
	}
	candidates := among
	if candidates == nil {
		candidates = a.able
	}
	for node := range candidates {
		consider(node)
	}
	a.record(key, best)
	return best
}

// weight breaks ties in a way that does not depend on the order of nodes.
func weight(key controller.Key, node string) uint64 {
	h := fnv.New64a()
	for _, part := range []string{key.Namespace, key.Name, node} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum64()
}

// record records an owner, or that there is none.
func (a *announcers) record(key controller.Key, node string) {
	a.remove(key)
	if node == "" {
		a.orphan[key] = struct{}{}
		return
	}
	a.owner[key] = node
	if a.owned[node] == nil {
		a.owned[node] = map[controller.Key]struct{}{}
	}
	a.owned[node][key] = struct{}{}
}

func (a *announcers) remove(key controller.Key) {
	delete(a.orphan, key)
	node, ok := a.owner[key]
	if !ok {
		return
	}
	delete(a.owner, key)
	if delete(a.owned[node], key); len(a.owned[node]) == 0 {
		delete(a.owned, node)
	}
}

// forget says that a service has nothing to announce.
func (a *announcers) forget(key controller.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(key)
}

package conflict

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// holder is a service, or a pod with host ports.
type holder struct {
	pod bool
	controller.Key
}

// asked is one frontend that a holder asks for.
type asked struct {
	frontend servicespec.Frontend // its identity
	claim    servicespec.Claim
	cluster  bool // at its own cluster address, which nobody can dispute
}

func appendAsked(list []asked, name string, obj metav1.Object, frontends []servicespec.Frontend) []asked {
	for _, f := range frontends {
		list = append(list, asked{
			frontend: f.Identity(), cluster: f.Given && !f.LoadBalancer,
			claim: servicespec.Claim{Given: f.Given, Since: servicespec.Since(obj), Name: name},
		})
	}
	return list
}

// claim is the claim of one holder to a frontend; node is "" if it holds on every node.
type claim struct {
	servicespec.Claim
	holder holder
	node   string
}

func (c claim) compare(other claim) int { return c.Claim.Compare(other.Claim) }

// meets says whether two claims can be on the same node.
func (c claim) meets(other claim) bool {
	return c.node == "" || other.node == "" || c.node == other.node
}

// held is what a holder asks for now.
type held struct {
	node string
	list []asked
}

// claims holds which holder asks for which frontend, indexed so that a change finds the
// holders it concerns without a search of all.
type claims struct {
	mu      sync.Mutex
	of      map[holder]held
	by      map[servicespec.Frontend][]claim                 // but for cluster addresses; the first has it
	cluster map[netip.Addr]controller.Key                    // cluster address -> its service
	at      map[netip.Addr]map[servicespec.Frontend]struct{} // keys of by that are at one address
	nodes   map[string][]netip.Addr                          // addresses of nodes
	hosts   map[netip.Addr]int                               // address -> how many nodes have it
	within  map[servicespec.Frontend]map[netip.Addr]struct{} // every address of a node -> those of nodes that are in by on their own
}

func newClaims() *claims {
	return &claims{
		of: map[holder]held{}, by: map[servicespec.Frontend][]claim{}, cluster: map[netip.Addr]controller.Key{},
		at: map[netip.Addr]map[servicespec.Frontend]struct{}{}, nodes: map[string][]netip.Addr{}, hosts: map[netip.Addr]int{},
		within: map[servicespec.Frontend]map[netip.Addr]struct{}{},
	}
}

// everywhere is the same port at every address of a node.
func everywhere(f servicespec.Frontend) servicespec.Frontend {
	if f.Addr.Is4() {
		f.Addr = netip.IPv4Unspecified()
	} else {
		f.Addr = netip.IPv6Unspecified()
	}
	return f
}

func (c *claims) clusterHolder(addr netip.Addr) (controller.Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, ok := c.cluster[addr]
	return key, ok
}

// set replaces what a holder asks for and returns all holders that this may concern,
// including the holder itself.
func (c *claims) set(h holder, node string, list []asked) (affected []holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.of[h]
	if before.node == node && slices.Equal(before.list, list) {
		return nil
	}
	concerned := map[holder]struct{}{}
	for _, a := range before.list {
		c.drop(h, before.node, a)
		c.concern(concerned, a.frontend)
	}
	if c.of[h] = (held{node, list}); len(list) == 0 {
		delete(c.of, h)
	}
	for _, a := range list {
		c.add(h, node, a)
		c.concern(concerned, a.frontend)
	}
	return slices.Collect(maps.Keys(concerned))
}

// concern adds the holders that may gain or lose f when another holder asks for it or stops to.
func (c *claims) concern(concerned map[holder]struct{}, f servicespec.Frontend) {
	for _, other := range c.by[f] {
		concerned[other.holder] = struct{}{}
	}
	if !f.Addr.IsUnspecified() && c.isHost(f.Addr) {
		for _, other := range c.by[everywhere(f)] {
			concerned[other.holder] = struct{}{}
		}
	}
}

func (c *claims) isHost(addr netip.Addr) bool { return addr.IsLoopback() || c.hosts[addr] > 0 }

func (c *claims) add(h holder, node string, a asked) {
	if a.cluster {
		c.cluster[a.frontend.Addr] = h.Key
		return
	}
	mine := claim{a.claim, h, node}
	list := c.by[a.frontend]
	at, _ := slices.BinarySearchFunc(list, mine, claim.compare)
	c.by[a.frontend] = slices.Insert(list, at, mine)
	if len(list) == 0 && !a.frontend.Addr.IsUnspecified() {
		addTo(c.at, a.frontend.Addr, a.frontend)
		if c.isHost(a.frontend.Addr) {
			addTo(c.within, everywhere(a.frontend), a.frontend.Addr)
		}
	}
}

func (c *claims) drop(h holder, node string, a asked) {
	f := a.frontend
	if a.cluster {
		if c.cluster[f.Addr] == h.Key { // another may have been given it meanwhile
			delete(c.cluster, f.Addr)
		}
		return
	}
	c.by[f] = slices.DeleteFunc(c.by[f], func(other claim) bool { return other == claim{a.claim, h, node} })
	if len(c.by[f]) == 0 {
		delete(c.by, f)
		removeFrom(c.at, f.Addr, f)
		removeFrom(c.within, everywhere(f), f.Addr)
	}
}

// setNode replaces the addresses of a node; none if it was deleted.
func (c *claims) setNode(name string, addrs []netip.Addr) (affected []holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.nodes[name]
	if slices.Equal(before, addrs) {
		return nil
	}
	if c.nodes[name] = addrs; len(addrs) == 0 {
		delete(c.nodes, name)
	}
	for _, addr := range addrs {
		c.hosts[addr]++
	}
	concerned := map[holder]struct{}{}
	for _, addr := range before {
		if c.hosts[addr]--; c.hosts[addr] == 0 {
			delete(c.hosts, addr)
		}
	}
	for _, addr := range slices.Concat(before, addrs) {
		for f := range c.at[addr] {
			c.concern(concerned, f) // a node's address no longer counts as an external one, or the reverse
			if c.isHost(addr) {
				addTo(c.within, everywhere(f), addr)
			} else {
				removeFrom(c.within, everywhere(f), addr)
			}
			for _, other := range c.by[everywhere(f)] {
				concerned[other.holder] = struct{}{}
			}
		}
	}
	return slices.Collect(maps.Keys(concerned))
}

func addTo[K, V comparable](index map[K]map[V]struct{}, key K, value V) {
	if index[key] == nil {
		index[key] = map[V]struct{}{}
	}
	index[key][value] = struct{}{}
}

func removeFrom[K, V comparable](index map[K]map[V]struct{}, key K, value V) {
	if delete(index[key], value); len(index[key]) == 0 {
		delete(index, key)
	}
}

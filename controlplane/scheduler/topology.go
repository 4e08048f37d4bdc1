package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// hostItself is the key of the topology in which every host is a domain of its own, whatever its labels are.
const hostItself = ""

// none is the domain of a host that has no value for a topology's label.
const none = int32(-1)

// topology divides the hosts that have a label into domains by its value. A domain's number is used again once no host is in it.
type topology struct {
	key     string
	of      []int32 // a host's domain, by the host's index
	domains map[string]int32
	hosts   []int32 // in each domain
	unused  []int32 // numbers of domains without hosts
	seen    []int64 // the decision that last met a domain
	used    int64   // the sweep before which it was last asked for
}

// join puts a host into its domain.
func (t *topology) join(h *host) {
	for int(h.index) >= len(t.of) {
		t.of = append(t.of, none)
	}
	value, has := h.name, true
	if t.key != hostItself {
		value, has = h.node.Labels[t.key]
	}
	if !has {
		t.of[h.index] = none
		return
	}
	domain, known := t.domains[value]
	if !known {
		if n := len(t.unused); n > 0 {
			domain, t.unused = t.unused[n-1], t.unused[:n-1]
		} else {
			domain = int32(len(t.hosts))
			t.hosts, t.seen = append(t.hosts, 0), append(t.seen, 0)
		}
		t.domains[value] = domain
	}
	t.of[h.index] = domain
	t.hosts[domain]++
}

// leave takes a host out of its domain. h.node is still what it joined with.
func (t *topology) leave(h *host) {
	domain := t.of[h.index]
	if domain == none {
		return
	}
	t.of[h.index] = none
	if t.hosts[domain]--; t.hosts[domain] > 0 {
		return
	}
	value := h.name
	if t.key != hostItself {
		value = h.node.Labels[t.key]
	}
	delete(t.domains, value)
	t.unused = append(t.unused, domain)
}

// pool is a set of hosts among which a topology spread constraint counts: those that have all the labels that it asks for, and that the pod's
// node affinity and tolerations admit, as far as the constraint honours these.
type pool struct {
	poolRules
	in   []bool // by the host's index
	used int64
}

// poolRules says which hosts a pool has. Pods with the same id share it.
type poolRules struct {
	id       string
	keys     []string
	affinity func(*corev1.Node) bool // nil: every node
	taints   func(*corev1.Node) bool // nil: every node
}

func (p *pool) join(h *host) {
	for int(h.index) >= len(p.in) {
		p.in = append(p.in, false)
	}
	hasAll := !slices.ContainsFunc(p.keys, func(key string) bool {
		_, has := h.node.Labels[key]
		return key != hostItself && !has
	})
	p.in[h.index] = hasAll && (p.affinity == nil || p.affinity(h.node)) && (p.taints == nil || p.taints(h.node))
}

// space is the domains of a topology that have hosts of a pool; pool is nil for all hosts.
type space struct {
	*topology
	pool    *pool
	inPool  counts // hosts of the pool in each domain
	present int32  // domains with at least one
	counted []*domainCounts
	used    int64
}

// domain is the domain of a host, or none if it is outside of the space.
func (s *space) domain(h *host) int32 {
	if s.pool != nil && !s.pool.in[h.index] {
		return none
	}
	return s.of[h.index]
}

func (s *space) join(h *host) {
	if d := s.domain(h); d != none && s.inPool.add(d, 1) == 1 {
		s.present++
		for _, c := range s.counted {
			c.appear(d)
		}
	}
}

func (s *space) leave(h *host) {
	if d := s.domain(h); d != none && s.inPool.add(d, -1) == 0 {
		s.present--
		for _, c := range s.counted {
			c.vanish(d)
		}
	}
}

// domainCounts counts pods by the domains of a space, and knows the least count of a domain that is present.
type domainCounts struct {
	*space
	counts
	total int
	// domainsWith is the number of present domains by their count, and least the smallest count; kept once least has been asked for.
	domainsWith map[int32]int32
	least       int32
}

func (c *domainCounts) change(h *host, n int32) {
	d := c.domain(h)
	if d == none {
		return
	}
	now := c.add(d, n)
	c.total += int(n)
	if c.domainsWith != nil {
		c.domainsWith[now]++
		c.least = min(c.least, now)
		c.drop(now - n)
	}
}

// drop takes a domain from those with a count.
func (c *domainCounts) drop(count int32) {
	if c.domainsWith[count]--; c.domainsWith[count] == 0 {
		delete(c.domainsWith, count)
	}
	if len(c.domainsWith) == 0 {
		c.least = 0
		return
	}
	for c.domainsWith[c.least] == 0 {
		c.least++
	}
}

func (c *domainCounts) appear(d int32) {
	if c.domainsWith == nil {
		return
	}
	n := c.at(d)
	if len(c.domainsWith) == 0 {
		c.least = n
	}
	c.domainsWith[n]++
	c.least = min(c.least, n)
}

func (c *domainCounts) vanish(d int32) {
	if c.domainsWith != nil {
		c.drop(c.at(d))
	}
}

// min is the smallest count of a present domain; 0 if there is none.
func (c *domainCounts) min() int32 {
	if c.domainsWith == nil {
		c.domainsWith = map[int32]int32{}
		for _, d := range c.domains {
			if c.inPool.at(d) > 0 {
				c.appear(d)
			}
		}
	}
	return c.least
}

package scheduler

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// books are the counts by which pods keep near to and away from each other. Each is made when a pod first asks for it, from what is placed
// then; after that it changes with each placement, and it is dropped by a sweep when nothing has asked for it for a while.
type books struct {
	topologies map[string]*topology
	pools      map[string]*pool
	spaces     map[string]*space
	// preferences are those of preferred node affinity, by its text.
	preferences map[string]*preference
	classes     map[string]*class
	tallies     map[string]*tally
	repelling   map[string]*bearer // required anti-affinity of placed pods
	rating      map[string]*bearer // other terms of placed pods
	namespaces  map[string]labels.Set
	shapes      map[shapeKey]*shape
	epoch       int64 // counts sweeps
}

func newBooks() books {
	return books{
		topologies: map[string]*topology{}, pools: map[string]*pool{}, spaces: map[string]*space{}, preferences: map[string]*preference{}, classes: map[string]*class{},
		tallies: map[string]*tally{}, repelling: map[string]*bearer{}, rating: map[string]*bearer{}, namespaces: map[string]labels.Set{}, shapes: map[shapeKey]*shape{},
	}
}

func (c *cluster) topology(key string) *topology {
	t := c.topologies[key]
	if t == nil {
		t = &topology{key: key, domains: map[string]int32{}}
		c.topologies[key] = t
		c.eachNode(t.join)
	}
	t.used = c.epoch
	return t
}

func (c *cluster) pool(rules poolRules) *pool {
	if rules.id == "" {
		return nil
	}
	p := c.pools[rules.id]
	if p == nil {
		p = &pool{poolRules: rules}
		c.pools[rules.id] = p
		c.eachNode(p.join)
	}
	p.used = c.epoch
	return p
}

func (c *cluster) space(key string, rules poolRules) *space {
	id := key + "|" + rules.id
	s := c.spaces[id]
	t, p := c.topology(key), c.pool(rules)
	if s == nil {
		s = &space{topology: t, pool: p}
		c.spaces[id] = s
		c.eachNode(s.join)
	}
	s.used = c.epoch
	return s
}

// eachNode calls do for every host that has a node. A host that is new has the highest index, so that what grows by index is complete.
func (c *cluster) eachNode(do func(*host)) {
	for _, h := range c.hosts {
		if h.node != nil {
			do(h)
		}
	}
}

// tally returns the counts of the placed pods that all matchers select, by the domains of a space; with live, without those being deleted.
func (c *cluster) tally(id string, live bool, matchers []*matcher, s *space) *domainCounts {
	t := c.tallies[id]
	if t == nil {
		t = &tally{matchers: matchers, live: live}
		c.tallies[id] = t
		for _, cl := range c.classes {
			if t.selects(c, cl) {
				cl.tallies, t.classes = append(cl.tallies, t), append(t.classes, cl)
			}
		}
	}
	t.used = c.epoch
	for _, d := range t.in {
		if d.space == s {
			return d
		}
	}
	d := &domainCounts{space: s}
	s.counted = append(s.counted, d)
	t.in = append(t.in, d)
	for _, cl := range t.classes {
		for p := range cl.placed {
			if p.host.node != nil && t.counts(p) {
				d.change(p.host, 1)
			}
		}
	}
	return d
}

// class returns the class of a pod.
func (c *cluster) class(req *request) *class {
	cl := req.class
	if cl == nil || cl.gone {
		if cl = c.classes[req.classID]; cl == nil {
			cl = &class{id: req.classID, namespace: req.pod.Namespace, labels: req.pod.Labels, placed: map[*placement]struct{}{}}
			c.classes[req.classID] = cl
			c.link(cl)
		}
		req.class = cl
	}
	cl.used = c.epoch
	return cl
}

// link finds what selects a class.
func (c *cluster) link(cl *class) {
	cl.tallies, cl.repelled, cl.rated = nil, nil, nil
	for _, t := range c.tallies {
		if t.selects(c, cl) {
			cl.tallies, t.classes = append(cl.tallies, t), append(t.classes, cl)
		}
	}
	in := c.namespaces[cl.namespace]
	for _, b := range c.repelling {
		if b.matcher.matches(cl.namespace, in, cl.labels) {
			cl.repelled = append(cl.repelled, b)
		}
	}
	for _, b := range c.rating {
		if b.matcher.matches(cl.namespace, in, cl.labels) {
			cl.rated = append(cl.rated, b)
		}
	}
}

// unlink undoes link.
func (c *cluster) unlink(cl *class) {
	for _, t := range cl.tallies {
		if i := slices.Index(t.classes, cl); i >= 0 {
			t.classes = slices.Delete(t.classes, i, i+1)
		}
	}
}

// setNamespace replaces the labels of a namespace; nil if it is gone. By them terms with a namespaceSelector select its pods or not.
func (c *cluster) setNamespace(name string, now labels.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if labels.Equals(c.namespaces[name], now) {
		return
	}
	c.occurrences.nodes = true
	var of []*class
	for _, cl := range c.classes {
		if cl.namespace == name {
			of = append(of, cl)
			for p := range cl.placed {
				c.contribute(p, -1)
			}
			c.unlink(cl)
		}
	}
	if now == nil {
		delete(c.namespaces, name)
	} else {
		c.namespaces[name] = now
	}
	for _, cl := range of {
		c.link(cl)
		for p := range cl.placed {
			c.contribute(p, 1)
		}
	}
}

// bear records that a placed pod has its affinity's terms.
func (c *cluster) bear(p *placement) {
	add := func(all map[string]*bearer, t *podTerm, weight int32, selects func(*class) *[]*bearer) {
		id := t.key + "|" + t.matcher.id
		b := all[id]
		if b == nil {
			b = &bearer{id: id, matcher: t.matcher, domainCounts: domainCounts{space: c.space(t.key, poolRules{})}}
			b.space.counted = append(b.space.counted, &b.domainCounts)
			all[id] = b
			for _, cl := range c.classes {
				if t.matcher.matches(cl.namespace, c.namespaces[cl.namespace], cl.labels) {
					list := selects(cl)
					*list = append(*list, b)
				}
			}
		}
		b.placed++
		p.bears = append(p.bears, bearing{b, weight})
	}
	repelled := func(cl *class) *[]*bearer { return &cl.repelled }
	rated := func(cl *class) *[]*bearer { return &cl.rated }
	for i := range p.request.anti {
		add(c.repelling, &p.request.anti[i], 1, repelled)
	}
	for i := range p.request.near {
		add(c.rating, &p.request.near[i], hardAffinityWeight, rated)
	}
	for i := range p.request.prefers {
		add(c.rating, &p.request.prefers[i], p.request.prefers[i].weight, rated)
	}
}

// unbear undoes bear; a term that no placed pod has any more is dropped.
func (c *cluster) unbear(p *placement) {
	for _, b := range p.bears {
		if b.placed--; b.placed > 0 {
			continue
		}
		drop := func(list *[]*bearer) {
			if i := slices.Index(*list, b.bearer); i >= 0 {
				*list = slices.Delete(*list, i, i+1)
			}
		}
		for _, cl := range c.classes {
			drop(&cl.repelled)
			drop(&cl.rated)
		}
		for _, all := range []map[string]*bearer{c.repelling, c.rating} {
			if all[b.id] == b.bearer {
				delete(all, b.id)
			}
		}
		b.space.forget(&b.domainCounts)
	}
	p.bears = nil
}

// forget ends the keeping of counts in a space.
func (s *space) forget(d *domainCounts) {
	if i := slices.Index(s.counted, d); i >= 0 {
		s.counted = slices.Delete(s.counted, i, i+1)
	}
}

// contribute adds a placed pod n times to all that counts it. The counts of a host without a node are left out: it is in no domain.
func (c *cluster) contribute(p *placement, n int32) {
	if p.host.node == nil {
		return
	}
	for _, t := range p.class.tallies {
		if !t.counts(p) {
			continue
		}
		for _, d := range t.in {
			d.change(p.host, n)
		}
	}
	for _, b := range p.bears {
		b.change(p.host, n*b.weight)
	}
}

// joinDomains puts a host, with its node, into the domains, pools and spaces, and counts its pods there.
func (c *cluster) joinDomains(h *host) {
	for _, t := range c.topologies {
		t.join(h)
	}
	for _, p := range c.pools {
		p.join(h)
	}
	for _, s := range c.spaces {
		s.join(h)
	}
	for _, p := range c.preferences {
		p.join(h)
	}
	for p := range h.placed {
		c.contribute(p, 1)
	}
}

// leaveDomains undoes joinDomains, while the host has the same node.
func (c *cluster) leaveDomains(h *host) {
	for p := range h.placed {
		c.contribute(p, -1)
	}
	for _, s := range c.spaces {
		s.leave(h)
	}
	for _, p := range c.pools {
		p.in[h.index] = false
	}
	for _, t := range c.topologies {
		t.leave(h)
	}
}

// sweep drops what nothing has asked for since the last sweep but one. It may be made again at any time.
func (c *cluster) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	old := func(used int64) bool { return c.epoch-used > 2 }
	for id, t := range c.tallies {
		if !old(t.used) {
			for _, d := range t.in {
				d.space.used = c.epoch
			}
			continue
		}
		delete(c.tallies, id)
		for _, cl := range t.classes {
			if i := slices.Index(cl.tallies, t); i >= 0 {
				cl.tallies = slices.Delete(cl.tallies, i, i+1)
			}
		}
		for _, d := range t.in {
			d.space.forget(d)
		}
	}
	for id, cl := range c.classes {
		if len(cl.placed) == 0 && old(cl.used) {
			cl.gone = true
			c.unlink(cl)
			delete(c.classes, id)
		}
	}
	for id, s := range c.spaces {
		if len(s.counted) > 0 || !old(s.used) {
			s.topology.used = c.epoch
			if s.pool != nil {
				s.pool.used = c.epoch
			}
			continue
		}
		delete(c.spaces, id)
	}
	for key, s := range c.shapes {
		if old(s.used) {
			delete(c.shapes, key)
		}
	}
	for id, p := range c.pools {
		if old(p.used) {
			delete(c.pools, id)
		}
	}
	for text, p := range c.preferences {
		if old(p.used) {
			delete(c.preferences, text)
		}
	}
	for key, t := range c.topologies {
		if old(t.used) {
			delete(c.topologies, key)
		}
	}
}

// joinIDs names several matchers together.
func joinIDs(matchers []*matcher) string {
	ids := make([]string, len(matchers))
	for i, m := range matchers {
		ids[i] = m.id
	}
	return strings.Join(ids, "&")
}

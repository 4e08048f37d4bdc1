package scheduler

import (
	"slices"
	"time"
)

const (
	// restAfterWake is for how long parked pods are left alone after they have been looked through, at least. Looking through them takes a tenth of
	// the time at most.
	restAfterWake = 20 * time.Millisecond
	restFactor    = 9
)

// occurrences are what has happened that may help pods which fit nowhere because of other pods: for each of them it is asked whether it does.
type occurrences struct {
	nodes      bool // a node came, went or changed its domains, or a namespace its labels
	came, went map[*class]struct{}
	// freed are the terms of required anti-affinity that pods had which are gone, by id.
	freed map[string]*matcher
}

func (o *occurrences) none() bool {
	return !o.nodes && len(o.came) == 0 && len(o.went) == 0
}

// placed records that a pod is on a host now.
func (o *occurrences) placed(p *placement) {
	if o.came == nil {
		o.came = map[*class]struct{}{}
	}
	o.came[p.class] = struct{}{}
}

// left records that a pod is on a host no more.
func (o *occurrences) left(p *placement) {
	if o.went == nil {
		o.went = map[*class]struct{}{}
	}
	o.went[p.class] = struct{}{}
	for i := range p.request.anti {
		if o.freed == nil {
			o.freed = map[string]*matcher{}
		}
		m := p.request.anti[i].matcher
		o.freed[m.id] = m
	}
}

// popOccurrences returns what has happened since the last call.
func (c *cluster) popOccurrences() (o occurrences) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, c.occurrences = c.occurrences, occurrences{}
	return o
}

func (c *cluster) anyOccurrence() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.occurrences.none()
}

// helps says whether a pod that fits nowhere may fit now, on whichever host. Room on one host is looked at apart from this. c.mu is held.
func (c *cluster) helps(o *occurrences, req *request) bool {
	spread := slices.ContainsFunc(req.spread, func(r spreadRule) bool { return r.hard })
	if o.nodes && (spread || len(req.near) > 0 || len(req.anti) > 0 || len(c.class(req).repelled) > 0) {
		return true
	}
	selects := func(m *matcher, cl *class) bool {
		return m.matches(cl.namespace, c.namespaces[cl.namespace], cl.labels)
	}
	// A pod that comes raises the least count; one that goes lowers a count.
	counted := func(cl *class) bool {
		return slices.ContainsFunc(req.spread, func(r spreadRule) bool { return r.hard && selects(r.matcher, cl) })
	}
	// The last pod of a kind that goes makes the next one the first, which needs no other.
	near := func(cl *class) bool {
		return len(req.nearAll) > 0 && !slices.ContainsFunc(req.nearAll, func(m *matcher) bool { return !selects(m, cl) })
	}
	for cl := range o.came {
		if counted(cl) || near(cl) {
			return true
		}
	}
	for cl := range o.went {
		if counted(cl) || near(cl) || slices.ContainsFunc(req.anti, func(t podTerm) bool { return selects(t.matcher, cl) }) {
			return true
		}
	}
	for _, m := range o.freed {
		if selects(m, c.class(req)) {
			return true
		}
	}
	return false
}

// wakeForOccurrences activates the parked pods that what has happened may help. It returns after how long it has to be called again; 0: when
// something happens.
func (s *Scheduler) wakeForOccurrences() time.Duration {
	if !s.cluster.anyOccurrence() {
		return 0
	}
	if wait := time.Until(s.rested); wait > 0 {
		return wait
	}
	o := s.cluster.popOccurrences()
	began := time.Now()
	s.cluster.mu.Lock()
	s.queue.wake(func(req *request) bool { return s.cluster.helps(&o, req) })
	s.cluster.mu.Unlock()
	now := time.Now()
	s.rested = now.Add(max(restAfterWake, restFactor*now.Sub(began)))
	return 0
}

package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// nominate keeps room on a host for a pod that is to be bound there once other pods have left. Pods of lower priority do not get this room.
func (c *cluster) nominate(req *request, h *host) {
	c.denominate(req)
	p := &placement{request: req, host: h}
	p.class = c.class(req)
	c.bear(p)
	c.nominated[keyOf(req.pod)] = p
	h.nominees = append(h.nominees, p)
}

// denominate undoes nominate and returns the name of the host on which the room is no longer kept; "" for a pod that is not nominated.
func (c *cluster) denominate(req *request) (host string) {
	key := keyOf(req.pod)
	p := c.nominated[key]
	if p == nil {
		return ""
	}
	delete(c.nominated, key)
	if i := slices.Index(p.host.nominees, p); i >= 0 {
		p.host.nominees = slices.Delete(p.host.nominees, i, i+1)
	}
	c.unbear(p)
	c.drop(p.host)
	return p.host.name
}

// nominateAs takes over the nomination that a pod's status has, unless the pod is nominated already: what this scheduler decided is newer.
func (c *cluster) nominateAs(req *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := req.pod.Status.NominatedNodeName
	if p := c.nominated[keyOf(req.pod)]; p != nil {
		if p.request.uid == req.uid {
			return
		}
		c.denominate(req)
	}
	if h := c.hosts[name]; h != nil && h.node != nil {
		c.nominate(req, h)
	}
}

// withdraw ends the nomination of a pod that is gone or bound, and returns the host for which it was.
func (c *cluster) withdraw(pod *corev1.Pod) (host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.nominated[keyOf(pod)]; p != nil && p.request.uid == pod.UID {
		return c.denominate(p.request)
	}
	return ""
}

// dropNominees ends the nominations of pods of lower priority for a host, and returns the pods: they look for another host.
func (c *cluster) dropNominees(h *host, priority int32) (of []*request) {
	for _, p := range slices.Clone(h.nominees) {
		if p.request.priority < priority {
			c.denominate(p.request)
			of = append(of, p.request)
		}
	}
	return of
}

// withNominees calls do while the pods that are nominated for a host, of at least the priority of a pod and other than it, count as placed.
func (c *cluster) withNominees(req *request, h *host, do func()) {
	var added []*placement
	for _, p := range h.nominees {
		if p.request.uid != req.uid && p.request.priority >= req.priority {
			p.class = c.class(p.request)
			c.use(p, +1)
			added = append(added, p)
		}
	}
	do()
	for _, p := range added {
		c.use(p, -1)
	}
}

// admits says whether a pod may be placed on a host, both with the pods that are nominated for it and, since these may never come, without.
func (c *cluster) admits(req *request, checks []check, h *host) bool {
	fits := fitsAll(checks, h)
	if fits && len(h.nominees) > 0 {
		c.withNominees(req, h, func() { fits = fitsAll(checks, h) })
	}
	return fits
}

// refusal says why a host does not admit a pod, and whether the removal of pods from it may help.
func (c *cluster) refusal(req *request, checks []check, h *host) (reasons []string, curable bool) {
	first := func() {
		for _, k := range checks {
			if !k.fits(h) {
				reasons, curable = k.explain(h)
				return
			}
		}
	}
	if first(); reasons == nil {
		c.withNominees(req, h, first)
	}
	return reasons, curable
}

package scheduler

import "math"

const (
	reasonExistingAnti = "node(s) didn't satisfy existing pods anti-affinity rules"
	reasonNear         = "node(s) didn't match pod affinity rules"
	reasonAnti         = "node(s) didn't match pod anti-affinity rules"

	// hardAffinityWeight is how much the required affinity of placed pods to a pod counts when it is placed.
	hardAffinityWeight = 1
)

// podAffinityFilter keeps pods to the domains of their required affinity, and from those of their own and other pods' required anti-affinity.
type podAffinityFilter struct{}

type podAffinityCheck struct {
	near, anti []*domainCounts
	first      bool // the pod is selected by its own affinity: it may be the first of its kind
	repelling  []*bearer
}

func (podAffinityFilter) check(c *cluster, req *request) check {
	cl := c.class(req)
	if len(req.near) == 0 && len(req.anti) == 0 && len(cl.repelled) == 0 {
		return nil
	}
	k := &podAffinityCheck{repelling: cl.repelled}
	for i := range req.near {
		k.near = append(k.near, c.tally(req.nearID, false, req.nearAll, c.space(req.near[i].key, poolRules{})))
	}
	if len(req.near) > 0 {
		k.first = (&tally{matchers: req.nearAll}).selects(c, cl)
	}
	for i := range req.anti {
		k.anti = append(k.anti, c.termCounts(&req.anti[i]))
	}
	return k
}

// termCounts counts the pods that a term selects.
func (c *cluster) termCounts(t *podTerm) *domainCounts {
	return c.tally(t.matcher.id, false, []*matcher{t.matcher}, c.space(t.key, poolRules{}))
}

func (k *podAffinityCheck) fits(h *host) bool { return k.refusal(h) == "" }

func (k *podAffinityCheck) explain(h *host) ([]string, bool) {
	reason := k.refusal(h)
	return []string{reason}, reason != reasonNear
}

func (k *podAffinityCheck) refusal(h *host) string {
	together, total := true, 0
	for _, counts := range k.near {
		d := counts.of[h.index]
		if d == none {
			return reasonNear
		}
		together = together && counts.at(d) > 0
		total += counts.total
	}
	if !together && (total > 0 || !k.first) {
		return reasonNear
	}
	for _, counts := range k.anti {
		if d := counts.of[h.index]; d != none && counts.at(d) > 0 {
			return reasonAnti
		}
	}
	for _, b := range k.repelling {
		if d := b.of[h.index]; d != none && b.at(d) > 0 {
			return reasonExistingAnti
		}
	}
	return ""
}

// podAffinityScore prefers the domains to which the pod's preferred terms, and those of the pods that are placed there, draw it.
type podAffinityScore struct{}

type podAffinityRating struct {
	c   *cluster
	own []weightedCounts
	of  []*bearer
}

type weightedCounts struct {
	*domainCounts
	weight int64
}

func (podAffinityScore) rating(c *cluster, req *request) rating {
	cl := c.class(req)
	if len(req.prefers) == 0 && len(cl.rated) == 0 {
		return nil
	}
	r := &podAffinityRating{c: c, of: cl.rated}
	for i := range req.prefers {
		r.own = append(r.own, weightedCounts{c.termCounts(&req.prefers[i]), int64(req.prefers[i].weight)})
	}
	return r
}

func (r *podAffinityRating) rate(_ []*host, scores []int64) {
	clear(scores)
	for i := range r.own {
		r.add(scores, r.own[i].domainCounts, r.own[i].weight)
	}
	for _, b := range r.of {
		r.add(scores, &b.domainCounts, 1)
	}
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		least, most = min(least, s), max(most, s)
	}
	for n, s := range scores {
		scores[n] = 0
		if most > least {
			scores[n] = int64(maxScore * (float64(s-least) / float64(most-least)))
		}
	}
}

// add adds what a term gives each host.
func (r *podAffinityRating) add(scores []int64, counts *domainCounts, weight int64) {
	of := counts.of
	for i, index := range r.c.scratch.indexes[:len(scores)] {
		if d := of[index]; d != none {
			scores[i] += weight * int64(counts.at(d))
		}
	}
}

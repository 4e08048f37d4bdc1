package scheduler

// Searches check all hosts up to allHosts of them, and above that a share that falls with
// the number of hosts, but is at least minShare per cent.
const (
	allHosts = 100
	minShare = 5
)

// enough is after how many fitting hosts a search among n hosts stops; share is the per cent that is asked for, 0: by n.
func enough(n, share int) int {
	if n <= allHosts {
		return n
	}
	if share == 0 {
		share = max(50-n/125, minShare)
	}
	return max(n*share/100, allHosts)
}

// scratch is what one decision after the other uses again. Its contents are those of the last decision.
type scratch struct {
	checks  []check
	fitting []*host
	ratings []int64
	totals  []int64
	indexes []int32 // of the hosts that are rated
	sums    []float64
}

// checksFor returns what decides where a pod may be. They are valid until the next call.
func (c *cluster) checksFor(req *request) []check {
	c.scratch.checks = c.scratch.checks[:0]
	for _, f := range c.profileOf(req).filters {
		if k := f.check(c, req); k != nil {
			c.scratch.checks = append(c.scratch.checks, k)
		}
	}
	return c.scratch.checks
}

func fitsAll(checks []check, h *host) bool {
	for _, k := range checks {
		if !k.fits(h) {
			return false
		}
	}
	return true
}

// choose returns the best host for a pod, or nil and why there is none. c.mu is held.
func (c *cluster) choose(req *request) (*host, *misfit) {
	hosts := c.order.hosts()
	n := len(hosts)
	if n == 0 {
		return nil, &misfit{}
	}
	checks := c.checksFor(req)
	if p := c.nominated[keyOf(req.pod)]; p != nil && p.host.node != nil && c.admits(req, checks, p.host) {
		return p.host, nil
	}
	fitting, want := c.scratch.fitting[:0], enough(n, c.profileOf(req).share)
	start := c.order.next % n
	i := 0
	for at := start; i < n && len(fitting) < want; i++ {
		if h := hosts[at]; c.admits(req, checks, h) {
			fitting = append(fitting, h)
		}
		if at++; at == n {
			at = 0
		}
	}
	c.scratch.fitting = fitting
	if len(fitting) == 0 {
		return nil, c.explain(req, checks, hosts)
	}
	c.order.next = (start + c.order.advance(i, n)) % n
	return c.best(req, fitting), nil
}

// best returns the host with the highest sum of weightedScore scores, and among equal ones that with the fewest pods: scores are whole numbers, which
// small pods hardly change.
func (c *cluster) best(req *request, hosts []*host) *host {
	if len(hosts) == 1 {
		return hosts[0]
	}
	n := len(hosts)
	if cap(c.scratch.ratings) < n {
		c.scratch.ratings, c.scratch.totals = make([]int64, n), make([]int64, n)
		c.scratch.indexes, c.scratch.sums = make([]int32, n), make([]float64, n)
	}
	for i, h := range hosts {
		c.scratch.indexes[i] = h.index
	}
	ratings, totals := c.scratch.ratings[:n], c.scratch.totals[:n]
	clear(totals)
	for _, s := range c.profileOf(req).scores {
		r := s.rating(c, req)
		if r == nil {
			continue
		}
		r.rate(hosts, ratings)
		for i, score := range ratings {
			totals[i] += s.weight * score
		}
	}
	best := 0
	for i, total := range totals {
		if total > totals[best] || total == totals[best] && hosts[i].pods < hosts[best].pods {
			best = i
		}
	}
	return hosts[best]
}

// advance is how far the next search starts from this one: after the hosts that were
// checked, or, if those were all, one further, so that ties rotate.
func (o *hostOrder) advance(looked, n int) int {
	if looked == n {
		return 1
	}
	return looked
}

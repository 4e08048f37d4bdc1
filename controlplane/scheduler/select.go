package scheduler

// Searches check all hosts up to allHosts of them, and above that a share that falls with
// the number of hosts, but is at least minShare per cent.
const (
	allHosts = 100
	minShare = 5
)

// enough is after how many fitting hosts a search among n hosts stops.
func enough(n int) int {
	if n <= allHosts {
		return n
	}
	share := max(50-n/125, minShare)
	return max(n*share/100, allHosts)
}

// rating orders fitting hosts: fewest pods of the group in the zone, then on
// the host, then most room.
type rating struct {
	zone, host int
	room       int64
}

func (r rating) better(other rating) bool {
	if r.zone != other.zone {
		return r.zone < other.zone
	}
	if r.host != other.host {
		return r.host < other.host
	}
	return r.room > other.room
}

// choose returns the best host for a pod, or nil and why there is none. c.mu is held.
func (c *cluster) choose(req *request) (*host, *misfit) {
	hosts := c.order.hosts()
	n := len(hosts)
	if n == 0 {
		return nil, &misfit{}
	}
	g := c.groups[req.group]
	var best *host
	var top rating
	found, want := 0, enough(n)
	start := c.order.next % n
	i := 0
	for ; i < n && found < want; i++ {
		h := hosts[(start+i)%n]
		if !fits(req, h, nil) {
			continue
		}
		found++
		if r := rate(req, h, g); best == nil || r.better(top) {
			best, top = h, r
		}
	}
	if best != nil {
		c.order.next = (start + c.order.advance(i, n)) % n
		return best, nil
	}
	why := &misfit{nodes: n}
	for _, h := range hosts {
		fits(req, h, why)
	}
	return nil, why
}

// advance is how far the next search starts from this one: after the hosts that were
// checked, or, if those were all, one further, so that ties rotate.
func (o *hostOrder) advance(looked, n int) int {
	if looked == n {
		return 1
	}
	return looked
}

func rate(req *request, h *host, g *group) (r rating) {
	if g != nil {
		r.zone, r.host = g.byZone[h.zone], g.byHost[h.name]
	}
	r.room = (free(h.allocatable.milliCPU, h.scored.milliCPU+req.scored.milliCPU) +
		free(h.allocatable.memory, h.scored.memory+req.scored.memory)) / 2
	return r
}

// free is the share that is free, in per cent.
func free(have, used int64) int64 {
	if have <= 0 || used >= have {
		return 0
	}
	return (have - used) * 100 / have
}

package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

const reasonTooManyPods = "Too many pods"

// resourceFilter keeps pods from hosts that have too little left of what they request.
type resourceFilter struct{}

type resourceCheck struct {
	*request
	shape *shape
}

func (resourceFilter) check(c *cluster, req *request) check { return c.resourceCheck(req) }

func (c *cluster) resourceCheck(req *request) resourceCheck {
	return resourceCheck{req, c.shapeOf(req)}
}

func (k resourceCheck) fits(h *host) bool {
	if k.shape == nil {
		return k.hasRoom(h)
	}
	if h.known.shape != k.shape {
		h.known = knownOf{shape: k.shape, fits: k.hasRoom(h)}
	}
	return h.known.fits
}

func (k resourceCheck) hasRoom(h *host) bool {
	need, used, have := &k.needs, &h.requested, &h.allocatable
	if h.pods+1 > h.maxPods ||
		need.milliCPU > 0 && need.milliCPU > have.milliCPU-used.milliCPU ||
		need.memory > 0 && need.memory > have.memory-used.memory ||
		need.ephemeral > 0 && need.ephemeral > have.ephemeral-used.ephemeral {
		return false
	}
	for name, n := range need.scalar {
		if n > 0 && n > have.scalar[name]-used.scalar[name] {
			return false
		}
	}
	return true
}

// explain names each resource that lacks. Removing pods does not help if the host never had as much.
func (k resourceCheck) explain(h *host) (reasons []string, curable bool) {
	curable = true
	if h.pods+1 > h.maxPods {
		reasons = append(reasons, reasonTooManyPods)
		curable = h.maxPods > 0
	}
	lacks := func(name corev1.ResourceName, need, used, have int64) {
		if need > 0 && need > have-used {
			reasons = append(reasons, "Insufficient "+string(name))
			curable = curable && need <= have
		}
	}
	lacks(corev1.ResourceCPU, k.needs.milliCPU, h.requested.milliCPU, h.allocatable.milliCPU)
	lacks(corev1.ResourceMemory, k.needs.memory, h.requested.memory, h.allocatable.memory)
	lacks(corev1.ResourceEphemeralStorage, k.needs.ephemeral, h.requested.ephemeral, h.allocatable.ephemeral)
	for name, need := range k.needs.scalar {
		lacks(name, need, h.requested.scalar[name], h.allocatable.scalar[name])
	}
	return reasons, curable
}

// leastAllocatedScore prefers hosts of which the least is requested: NodeResourcesFit with the strategy LeastAllocated.
type leastAllocatedScore struct{}

type leastAllocatedRating struct{ amounts }

// amounts are what scores by CPU and memory go by.
type amounts struct {
	shape   *shape
	cpu     int64
	memory  int64
	inNeeds [2]int64 // CPU and memory without assumptions
}

func (c *cluster) amountsOf(req *request) amounts {
	return amounts{c.shapeOf(req), req.scored.milliCPU, req.scored.memory, [2]int64{req.needs.milliCPU, req.needs.memory}}
}

// scoresOf returns what a host gets by room and by balance.
func (r *amounts) scoresOf(h *host) (least, balance int64) {
	if r.shape == nil {
		return leastAllocatedOf(h, r.cpu, r.memory), balanceOf(h, r.inNeeds[0], r.inNeeds[1])
	}
	if k := &h.known; k.shape != r.shape || !k.scored {
		if k.shape != r.shape {
			*k = knownOf{} // whether the shape fits is not known
		}
		k.least, k.balance = int16(leastAllocatedOf(h, r.cpu, r.memory)), int16(balanceOf(h, r.inNeeds[0], r.inNeeds[1]))
		if k.shape == r.shape {
			k.scored = true
		}
		return int64(k.least), int64(k.balance)
	}
	return int64(h.known.least), int64(h.known.balance)
}

func (leastAllocatedScore) rating(c *cluster, req *request) rating {
	return &leastAllocatedRating{c.amountsOf(req)}
}

func (r *leastAllocatedRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n], _ = r.scoresOf(h)
	}
}

func leastAllocatedOf(h *host, moreCPU, moreMemory int64) int64 {
	cpu, memory := h.allocatable.milliCPU, h.allocatable.memory
	switch {
	case cpu > 0 && memory > 0:
		return (free(cpu, h.scored.milliCPU+moreCPU) + free(memory, h.scored.memory+moreMemory)) / 2
	case cpu > 0:
		return free(cpu, h.scored.milliCPU+moreCPU)
	case memory > 0:
		return free(memory, h.scored.memory+moreMemory)
	}
	return 0
}

// free is the share that is free, in per cent.
func free(have, used int64) int64 {
	if used >= have {
		return 0
	}
	return (have - used) * maxScore / have
}

// balanceScore prefers hosts whose shares of CPU and memory in use come nearer to each other by the pod: NodeResourcesBalancedAllocation.
type balanceScore struct{}

type balanceRating struct{ amounts }

func (balanceScore) rating(c *cluster, req *request) rating {
	if req.needs.milliCPU == 0 && req.needs.memory == 0 {
		return nil
	}
	return &balanceRating{c.amountsOf(req)}
}

func (r *balanceRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		_, scores[n] = r.scoresOf(h)
	}
}

func balanceOf(h *host, moreCPU, moreMemory int64) int64 {
	with := balance(h, h.requested.milliCPU+moreCPU, h.requested.memory+moreMemory)
	without := balance(h, h.requested.milliCPU, h.requested.memory)
	return maxScore/2 + (maxScore/2+with-without)/2
}

// balance is maxScore less the standard deviation of the two shares.
func balance(h *host, cpu, memory int64) int64 {
	if h.allocatable.milliCPU == 0 || h.allocatable.memory == 0 {
		return maxScore
	}
	a := min(float64(cpu)/float64(h.allocatable.milliCPU), 1)
	b := min(float64(memory)/float64(h.allocatable.memory), 1)
	return int64((1 - math.Abs((a-b)/2)) * maxScore)
}

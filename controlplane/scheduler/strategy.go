package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// resourceWeight is a resource and how much it counts in a scoring strategy.
type resourceWeight struct {
	name   corev1.ResourceName
	weight int64
}

// strategyScore is NodeResourcesFit with any strategy and any resources.
type strategyScore struct {
	resources []resourceWeight
	// rate is what a host gets for one resource, 0 to maxScore, by how much of it would be in use with the pod.
	rate func(used, have int64) int64
	// ratio is the strategy RequestedToCapacityRatio: resources that get 0 do not count, and the mean is rounded.
	ratio bool
}

// leastAllocated, mostAllocated are the strategies of these names, for one resource.
func leastAllocated(used, have int64) int64 { return free(have, used) }

func mostAllocated(used, have int64) int64 { return min(used, have) * maxScore / have }

// shapePoint is a point of a curve of scores by utilization, both 0 to 100.
type shapePoint struct{ utilization, score int64 }

// capacityRatio scores by the straight lines between the points of a shape, which are in the order of utilization.
func capacityRatio(shape []shapePoint) func(used, have int64) int64 {
	return func(used, have int64) int64 {
		utilization := int64(maxScore)
		if used <= have {
			utilization = used * maxScore / have
		}
		for i, at := range shape {
			if utilization > at.utilization {
				continue
			}
			if i == 0 {
				return at.score
			}
			from := shape[i-1]
			return from.score + (at.score-from.score)*(utilization-from.utilization)/(at.utilization-from.utilization)
		}
		return shape[len(shape)-1].score
	}
}

type strategyRating struct {
	*strategyScore
	needs []int64 // of the pod, in the order of the resources
	skip  []bool
}

func (s *strategyScore) rating(_ *cluster, req *request) rating {
	r := strategyRating{strategyScore: s, needs: make([]int64, len(s.resources)), skip: make([]bool, len(s.resources))}
	for i, of := range s.resources {
		r.needs[i] = assumed(&req.scored, &req.needs, of.name)
		// What few hosts have counts only for pods that ask for it.
		r.skip[i] = r.needs[i] == 0 && isScalar(of.name)
	}
	return r
}

func (r strategyRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n] = r.of(h)
	}
}

func (r strategyRating) of(h *host) int64 {
	sum, weights := int64(0), int64(0)
	for i, of := range r.resources {
		have := h.allocatable.of(of.name)
		if have == 0 || r.skip[i] {
			continue
		}
		score := r.strategyScore.rate(assumed(&h.scored, &h.requested, of.name)+r.needs[i], have)
		if score > 0 || !r.ratio {
			sum += score * of.weight
			weights += of.weight
		}
	}
	switch {
	case weights == 0:
		return 0
	case r.ratio:
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

// assumed is how much of a resource counts: containers that request neither CPU nor memory are assumed to use some.
func assumed(scored, requested *resources, name corev1.ResourceName) int64 {
	if name == corev1.ResourceCPU || name == corev1.ResourceMemory {
		return scored.of(name)
	}
	return requested.of(name)
}

func (r *resources) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.milliCPU
	case corev1.ResourceMemory:
		return r.memory
	case corev1.ResourceEphemeralStorage:
		return r.ephemeral
	}
	return r.scalar[name]
}

func isScalar(name corev1.ResourceName) bool {
	return v1helper.IsExtendedResourceName(name) || v1helper.IsHugePageResourceName(name) || v1helper.IsPrefixedNativeResource(name) || v1helper.IsAttachableVolumeResourceName(name)
}

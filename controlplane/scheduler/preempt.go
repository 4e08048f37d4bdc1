package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

const (
	noVictims       = "No preemption victims found for incoming pod"
	notHelpful      = "Preemption is not helpful for scheduling"
	neverPreempts   = "not eligible due to preemptionPolicy=Never."
	waitsForVictims = "not eligible due to a terminating pod on the nominated node."
	foundPlacement  = "found a potential placement for pod on node %v, preempting %d victims"
)

// candidate is a host on which a pod fits once some pods of lower priority are gone.
type candidate struct {
	host       *host
	victims    []*placement // by falling importance
	violations int          // victims that a disruption budget would keep
}

// preempt looks for the host on which the least important pods have to go so that a pod fits, or says why there is none. c.mu is held, and checks
// are those of the pod. Pods are taken away and put back in the counts themselves, so that every filter sees what it would see then.
func (c *cluster) preempt(req *request, checks []check, why *misfit) (*candidate, string) {
	if policy := req.pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return nil, neverPreempts
	}
	if c.awaitsVictims(req, why) {
		return nil, waitsForVictims
	}
	n := len(why.curable)
	want := min(max(n*c.profileOf(req).candidateShare/100, c.profileOf(req).minCandidates), n)
	var found []*candidate
	keeping := 0 // candidates that violate no budget
	refused := &misfit{nodes: why.nodes}
	if !c.hasBelow(req.priority) {
		n, refused = 0, &misfit{nodes: why.nodes}
		refused.add(slices.Repeat([]string{noVictims}, len(why.curable))...)
	}
	for i := range n {
		h := why.curable[(c.preemptAt+i)%n]
		k, reasons := c.victimsOn(req, checks, h)
		if k == nil {
			refused.add(reasons...)
			continue
		}
		found = append(found, k)
		if k.violations == 0 {
			keeping++
		}
		if len(found) >= want && keeping > 0 {
			break
		}
	}
	c.preemptAt++
	if len(found) == 0 {
		if rest := why.nodes - len(why.curable); rest > 0 {
			refused.add(slices.Repeat([]string{notHelpful}, rest)...)
		}
		return nil, refused.summary()
	}
	return slices.MinFunc(found, compareCandidates), ""
}

// hasBelow says whether any placed pod has a lower priority.
func (c *cluster) hasBelow(priority int32) bool {
	for p := range c.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// awaitsVictims says whether pods that were preempted for this one are still on their way out.
func (c *cluster) awaitsVictims(req *request, why *misfit) bool {
	p := c.nominated[keyOf(req.pod)]
	if p == nil || !slices.Contains(why.curable, p.host) {
		return false
	}
	for other := range p.host.placed {
		if other.request.priority < req.priority && (other.preempted || other.request.deleting && preemptedByUs(other.request.pod)) {
			return true
		}
	}
	return false
}

func preemptedByUs(pod *corev1.Pod) bool {
	target := controller.PodCondition(pod, corev1.DisruptionTarget)
	return target != nil && target.Status == corev1.ConditionTrue && target.Reason == corev1.PodReasonPreemptionByScheduler
}

// victimsOn finds the pods that have to leave a host: all of lower priority, less those that may stay after all, the most important first, and
// before others those that a disruption budget keeps.
func (c *cluster) victimsOn(req *request, checks []check, h *host) (*candidate, []string) {
	var lower []*placement
	for p := range h.placed {
		if p.request.priority < req.priority {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return nil, []string{noVictims}
	}
	slices.SortFunc(lower, compareImportance)
	for _, p := range lower {
		c.use(p, -1)
	}
	if !c.admits(req, checks, h) {
		reasons, _ := c.refusal(req, checks, h)
		for _, p := range lower {
			c.use(p, +1)
		}
		return nil, reasons
	}
	k := &candidate{host: h}
	kept := c.keptByBudgets(lower)
	for _, violating := range []bool{true, false} {
		for i, p := range lower {
			if kept[i] != violating {
				continue
			}
			c.use(p, +1)
			if !c.admits(req, checks, h) {
				c.use(p, -1)
				k.victims = append(k.victims, p)
				if violating {
					k.violations++
				}
			}
		}
	}
	for _, p := range k.victims {
		c.use(p, +1)
	}
	if len(k.victims) == 0 {
		return nil, []string{noVictims} // it fits as it is: another check has seen another state
	}
	slices.SortFunc(k.victims, compareImportance)
	return k, nil
}

// compareImportance puts the more important pod first: the one of higher priority, then the one that has run for longer.
func compareImportance(a, b *placement) int {
	if a.request.priority != b.request.priority {
		return sign(int64(b.request.priority) - int64(a.request.priority))
	}
	return sign(startOf(a) - startOf(b))
}

// startOf is when a pod began to run; one that has not yet is the latest.
func startOf(p *placement) int64 {
	if start := p.request.pod.Status.StartTime; start != nil {
		return start.UnixNano()
	}
	return math.MaxInt64 / 2
}

func sign(n int64) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// compareCandidates puts the host first on which preemption does the least harm, by Kubernetes' order: fewest budgets violated, lowest priority of
// the most important victim, lowest sum of priorities, fewest victims, latest start of the most important victims.
func compareCandidates(a, b *candidate) int {
	for _, by := range []func(*candidate) int64{
		func(k *candidate) int64 { return int64(k.violations) },
		func(k *candidate) int64 { return int64(k.victims[0].request.priority) },
		func(k *candidate) (sum int64) {
			for _, p := range k.victims {
				sum += int64(p.request.priority) + math.MaxInt32 + 1 // so that more victims are never a smaller sum
			}
			return sum
		},
		func(k *candidate) int64 { return int64(len(k.victims)) },
		func(k *candidate) int64 {
			earliest := int64(math.MaxInt64)
			for _, p := range k.victims {
				if p.request.priority == k.victims[0].request.priority {
					earliest = min(earliest, startOf(p))
				}
			}
			return -earliest
		},
	} {
		if x, y := by(a), by(b); x != y {
			return sign(x - y)
		}
	}
	return 0
}

package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

const (
	reasonSpread      = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel = reasonSpread + " (missing required label)"
)

// spreadFilter keeps pods from domains that have too many of their kind, by their constraints with DoNotSchedule.
type spreadFilter struct{}

type spreadCheck []spreadLimit

// spreadLimit is one constraint: a domain may have most pods at most.
type spreadLimit struct {
	rule   *spreadRule
	counts *domainCounts
}

func (spreadFilter) check(c *cluster, req *request) check {
	var k spreadCheck
	for i := range req.spread {
		if rule := &req.spread[i]; rule.hard {
			k = append(k, spreadLimit{rule, c.spreadCounts(rule)})
		}
	}
	if k == nil {
		return nil
	}
	return k
}

// spreadCounts returns the counts of a constraint.
func (c *cluster) spreadCounts(rule *spreadRule) *domainCounts {
	return c.tally("live "+rule.matcher.id, true, []*matcher{rule.matcher}, c.space(rule.key, rule.pool))
}

func (k spreadCheck) fits(h *host) bool { return k.refusal(h) == "" }

func (k spreadCheck) explain(h *host) ([]string, bool) {
	reason := k.refusal(h)
	return []string{reason}, reason == reasonSpread
}

// refusal reads the counts as they are now: preemption asks again after it has taken pods away.
func (k spreadCheck) refusal(h *host) string {
	for i := range k {
		rule, counts := k[i].rule, k[i].counts
		d := counts.of[h.index]
		if d == none {
			return reasonSpreadLabel
		}
		least := int32(0)
		if counts.present >= rule.minDomains {
			least = counts.min()
		}
		with := counts.at(d)
		if rule.self {
			with++
		}
		if with-least > rule.maxSkew {
			return reasonSpread
		}
	}
	return ""
}

// spreadScore prefers domains with few pods of the same kind: by the pod's constraints with ScheduleAnyway, or, if it has no constraints at all, by
// host and by zone among the pods of its services and its controller.
type spreadScore struct{}

type spreadRating struct {
	c         *cluster
	parts     []spreadPart
	defaulted bool
}

type spreadPart struct {
	counts *domainCounts
	size   int // domains among the rated hosts
	skew   float64
	factor float64
	// by is what each domain adds to the crowd of its hosts, where there are fewer domains than hosts; nil: to be computed for each host.
	by []float64
}

// Limits of the default constraints, as Kubernetes has them.
const (
	defaultHostSkew = 3
	defaultZoneSkew = 5
)

func (spreadScore) rating(c *cluster, req *request) rating {
	r := &spreadRating{c: c}
	if len(req.spread) == 0 {
		m := c.defaultSelector(req)
		if m == nil {
			return nil
		}
		r.defaulted = true
		id := "live " + m.id
		zones := c.space(corev1.LabelTopologyZone, req.nodes)
		r.parts = []spreadPart{
			{counts: c.tally(id, true, []*matcher{m}, c.space(hostItself, poolRules{})), skew: defaultHostSkew - 1},
			{counts: c.tally(id, true, []*matcher{m}, zones), skew: defaultZoneSkew - 1},
		}
		return r
	}
	for i := range req.spread {
		if rule := &req.spread[i]; !rule.hard {
			r.parts = append(r.parts, spreadPart{counts: c.spreadCounts(rule), skew: float64(rule.maxSkew - 1)})
		}
	}
	if r.parts == nil {
		return nil
	}
	return r
}

func (r *spreadRating) rate(hosts []*host, scores []int64) {
	r.weigh(hosts)
	r.crowd(scores)
	least, most := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s != ignored {
			least, most = min(least, s), max(most, s)
		}
	}
	last, score := int64(math.MinInt64), int64(0) // many hosts have the same crowd: divisions are saved
	for n, s := range scores {
		if s != last {
			switch last = s; {
			case s == ignored:
				score = 0
			case most == 0:
				score = maxScore
			default:
				score = maxScore * (most + least - s) / most
			}
		}
		scores[n] = score
	}
}

// weigh finds how many domains each topology has among the hosts: counts weigh the more, the more domains there are.
func (r *spreadRating) weigh(hosts []*host) {
	r.c.decision++
	for i := range r.parts {
		t, size := r.parts[i].counts.topology, 0
		everyHost := t.key == hostItself || t.key == corev1.LabelHostname
		for _, other := range r.parts[:i] {
			if other.counts.topology == t {
				size = other.size // the marks are set already
			}
		}
		if everyHost && r.defaulted {
			size = len(hosts)
		} else if size == 0 {
			for _, h := range hosts {
				if !everyHost && size == len(t.domains) {
					break // all have been met
				}
				d := t.of[h.index]
				if d == none || !r.defaulted && r.lacks(h) {
					continue
				}
				if everyHost || t.seen[d] != r.c.decision {
					t.seen[d] = r.c.decision
					size++
				}
			}
		}
		p := &r.parts[i]
		p.size, p.factor = size, math.Log(float64(size+2))
		if domains := len(t.hosts); !everyHost && domains < len(hosts) {
			p.by = make([]float64, domains)
			for d := range p.by {
				p.by[d] = float64(p.counts.at(int32(d)))*p.factor + p.skew
			}
		}
	}
}

// lacks says whether a host lacks a label of the constraints, so that it is not rated.
func (r *spreadRating) lacks(h *host) bool {
	for i := range r.parts {
		if r.parts[i].counts.of[h.index] == none {
			return true
		}
	}
	return false
}

// ignored is the crowd of a host that is not rated.
const ignored = -1

// crowd writes how many pods of the kind there are in the domains of each host, with the weight of each topology. It goes topology by topology: then
// the loads for one host do not wait for those of another.
func (r *spreadRating) crowd(scores []int64) {
	n := len(scores)
	indexes, sums := r.c.scratch.indexes[:n], r.c.scratch.sums[:n]
	for i := range sums {
		sums[i] = 0.5 // rounds
	}
	for i := range r.parts {
		p := &r.parts[i]
		of, without := p.counts.of, 0.0
		if !r.defaulted {
			without = math.Inf(-1)
		}
		for i, index := range indexes {
			switch d := of[index]; {
			case d == none:
				sums[i] += without
			case p.by != nil:
				sums[i] += p.by[d]
			default:
				sums[i] += float64(p.counts.at(d))*p.factor + p.skew
			}
		}
	}
	for i, sum := range sums {
		if scores[i] = ignored; sum >= 0 {
			scores[i] = int64(sum)
		}
	}
}

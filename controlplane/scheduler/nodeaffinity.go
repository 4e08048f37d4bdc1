package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

const reasonAffinity = "node(s) didn't match Pod's node affinity/selector"

// nodeAffinityFilter keeps pods to the nodes that their node selector and required node affinity name.
type nodeAffinityFilter struct{}

type nodeAffinityCheck struct{ *pool }

func (nodeAffinityFilter) check(c *cluster, req *request) check {
	if req.nodes.id == "" {
		return nil
	}
	return nodeAffinityCheck{c.pool(req.nodes)}
}

func (k nodeAffinityCheck) fits(h *host) bool { return k.in[h.index] }

func (nodeAffinityCheck) explain(*host) ([]string, bool) { return []string{reasonAffinity}, false }

// affinityOf says which nodes a pod's node selector and required node affinity admit.
func affinityOf(pod *corev1.Pod) func(*corev1.Node) bool {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(node *corev1.Node) bool {
		ok, err := required.Match(node)
		return ok && err == nil
	}
}

// nodeAffinityScore prefers the nodes of a pod's preferred node affinity.
type nodeAffinityScore struct{}

// preference is what preferred node affinity gives each host, computed once a change of the host's node.
type preference struct {
	terms *nodeaffinity.PreferredSchedulingTerms
	of    []int64 // by the host's index
	used  int64
}

func (p *preference) join(h *host) {
	for int(h.index) >= len(p.of) {
		p.of = append(p.of, 0)
	}
	p.of[h.index] = p.terms.Score(h.node)
}

// preference returns that of a pod, or nil if it has none.
func (c *cluster) preference(req *request) *preference {
	if req.preferred == "" {
		return nil
	}
	p := c.preferences[req.preferred]
	if p == nil {
		// Validation has refused terms that cannot be read.
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(req.pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return nil
		}
		p = &preference{terms: terms}
		c.preferences[req.preferred] = p
		c.eachNode(p.join)
	}
	p.used = c.epoch
	return p
}

// preferredNodes is the text of a pod's preferred node affinity; "" if it has none.
func preferredNodes(pod *corev1.Pod) string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return ""
	}
	return textOf(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
}

type nodeAffinityRating struct{ *preference }

func (nodeAffinityScore) rating(c *cluster, req *request) rating {
	p := c.preference(req)
	if p == nil {
		return nil
	}
	return nodeAffinityRating{p}
}

func (r nodeAffinityRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n] = r.of[h.index]
	}
	stretch(scores, false)
}

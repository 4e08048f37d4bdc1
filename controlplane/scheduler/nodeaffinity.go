package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

const reasonAffinity = "node(s) didn't match Pod's node affinity/selector"

// nodeAffinityFilter keeps pods to the nodes that their node selector and required node affinity name.
type nodeAffinityFilter struct{}

type nodeAffinityCheck struct{ *request }

func (nodeAffinityFilter) check(_ *cluster, req *request) check {
	if req.anywhere {
		return nil
	}
	return nodeAffinityCheck{req}
}

func (k nodeAffinityCheck) fits(h *host) bool {
	ok, err := k.affinity.Match(h.node)
	return ok && err == nil
}

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

type nodeAffinityRating struct {
	terms *nodeaffinity.PreferredSchedulingTerms
}

func (nodeAffinityScore) weight() int64 { return 2 }

func (nodeAffinityScore) rating(_ *cluster, req *request) rating {
	a := req.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	// Validation has refused terms that cannot be read.
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil
	}
	return nodeAffinityRating{terms}
}

func (r nodeAffinityRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n] = r.terms.Score(h.node)
	}
	stretch(scores, false)
}

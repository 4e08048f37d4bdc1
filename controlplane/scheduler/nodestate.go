package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/controlplane/controller"
)

const (
	reasonUnschedulable = "node(s) were unschedulable"
	reasonNotReady      = "node(s) were not ready"
	reasonTaint         = "node(s) had untolerated taint(s)"
)

// nodeStateFilter keeps pods from nodes that are cordoned, tainted or not ready, unless they tolerate it.
type nodeStateFilter struct{}

// nodeStateCheck is also taintScore's rating.
type nodeStateCheck struct{ tolerations []corev1.Toleration }

func (nodeStateFilter) check(_ *cluster, req *request) check {
	return nodeStateCheck{req.pod.Spec.Tolerations}
}

func (k nodeStateCheck) fits(h *host) bool { return h.open || k.reason(h) == "" }

func (k nodeStateCheck) explain(h *host) ([]string, bool) { return []string{k.reason(h)}, false }

func (k nodeStateCheck) reason(h *host) string {
	if h.node.Spec.Unschedulable && !tolerates(k.tolerations, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return reasonUnschedulable
	}
	if taint, untolerated := untoleratedTaint(k.tolerations, h.node); untolerated {
		if taint.Key == corev1.TaintNodeUnschedulable {
			return reasonUnschedulable
		}
		return reasonTaint
	}
	if !h.ready && !tolerates(k.tolerations, &corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}) {
		return reasonNotReady
	}
	return ""
}

func ready(node *corev1.Node) bool {
	c := controller.NodeCondition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// open says whether a node takes pods without tolerations.
func open(node *corev1.Node) bool {
	_, tainted := untoleratedTaint(nil, node)
	return !node.Spec.Unschedulable && !tainted && ready(node)
}

func untoleratedTaint(tolerations []corev1.Toleration, node *corev1.Node) (corev1.Taint, bool) {
	if len(node.Spec.Taints) == 0 {
		return corev1.Taint{}, false
	}
	return corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, false)
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, tolerations, taint, false)
}

// taintScore prefers nodes with few taints of the effect PreferNoSchedule that the pod does not tolerate.
type taintScore struct{}

type taintRating struct{ nodeStateCheck }

func (taintScore) rating(c *cluster, req *request) rating {
	if c.discouraged == 0 {
		return nil
	}
	return taintRating{nodeStateCheck{req.pod.Spec.Tolerations}}
}

func (r taintRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n] = 0
		for i := range h.node.Spec.Taints {
			if t := &h.node.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(r.tolerations, t) {
				scores[n]++
			}
		}
	}
	stretch(scores, true)
}

// discourages says whether a node has a taint of the effect PreferNoSchedule.
func discourages(node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].Effect == corev1.TaintEffectPreferNoSchedule {
			return true
		}
	}
	return false
}

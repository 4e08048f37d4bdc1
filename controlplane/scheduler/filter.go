package scheduler

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/controlplane/controller"
)

// Why a pod does not fit a node, in Kubernetes' words.
const (
	reasonUnschedulable = "node(s) were unschedulable"
	reasonNotReady      = "node(s) were not ready"
	reasonTaint         = "node(s) had untolerated taint(s)"
	reasonAffinity      = "node(s) didn't match Pod's node affinity/selector"
	reasonPorts         = "node(s) didn't have free ports for the requested pod ports"
	reasonTooManyPods   = "Too many pods"
)

// noNodes is the message for a pod when there is no node at all.
const noNodes = "no nodes available to schedule pods"

// misfit counts the reasons why nodes were left out.
type misfit struct {
	nodes   int
	reasons map[string]int
}

func (m *misfit) add(reasons ...string) {
	if m == nil {
		return
	}
	if m.reasons == nil {
		m.reasons = map[string]int{}
	}
	for _, r := range reasons {
		m.reasons[r]++
	}
}

func (m *misfit) String() string {
	if m.nodes == 0 {
		return noNodes
	}
	parts := make([]string, 0, len(m.reasons))
	for reason, n := range m.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", m.nodes, strings.Join(parts, ", "))
}

// fits says whether a pod may be placed on a host; why may be nil.
func fits(req *request, h *host, why *misfit) bool {
	node, pod := h.node, req.pod
	if node.Spec.Unschedulable && !tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		why.add(reasonUnschedulable)
		return false
	}
	if taint, untolerated := untoleratedTaint(pod, node); untolerated {
		if taint.Key == corev1.TaintNodeUnschedulable {
			why.add(reasonUnschedulable)
		} else {
			why.add(reasonTaint)
		}
		return false
	}
	if !h.ready && !tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}) {
		why.add(reasonNotReady)
		return false
	}
	if !req.anywhere {
		if ok, err := req.affinity.Match(node); err != nil || !ok {
			why.add(reasonAffinity)
			return false
		}
	}
	if portsTaken(req, h) {
		why.add(reasonPorts)
		return false
	}
	return roomFor(req, h, why)
}

// roomFor checks the amounts; each resource that lacks is a reason.
func roomFor(req *request, h *host, why *misfit) bool {
	ok := true
	if h.pods+1 > h.maxPods {
		why.add(reasonTooManyPods)
		ok = false
	}
	lacks := func(name corev1.ResourceName, need, used, have int64) {
		if need > 0 && need > have-used {
			ok = false
			if why != nil {
				why.add("Insufficient " + string(name))
			}
		}
	}
	lacks(corev1.ResourceCPU, req.needs.milliCPU, h.requested.milliCPU, h.allocatable.milliCPU)
	lacks(corev1.ResourceMemory, req.needs.memory, h.requested.memory, h.allocatable.memory)
	lacks(corev1.ResourceEphemeralStorage, req.needs.ephemeral, h.requested.ephemeral, h.allocatable.ephemeral)
	for name, need := range req.needs.scalar {
		lacks(name, need, h.requested.scalar[name], h.allocatable.scalar[name])
	}
	return ok
}

func portsTaken(req *request, h *host) bool {
	if len(h.ports) == 0 {
		return false
	}
	for _, want := range req.hostPorts {
		for have := range h.ports {
			if have.port == want.port && have.protocol == want.protocol &&
				(have.ip == want.ip || have.ip == "0.0.0.0" || want.ip == "0.0.0.0") {
				return true
			}
		}
	}
	return false
}

func ready(node *corev1.Node) bool {
	c := controller.NodeCondition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func untoleratedTaint(pod *corev1.Pod, node *corev1.Node) (corev1.Taint, bool) {
	if len(node.Spec.Taints) == 0 {
		return corev1.Taint{}, false
	}
	return corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, false)
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false)
}

// placementChanged says whether a node's change, other than of its condition, can let pods fit that did not before.
func placementChanged(old, cur *corev1.Node) bool {
	return old.Spec.Unschedulable != cur.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, cur.Spec.Taints) ||
		!equality.Semantic.DeepEqual(old.Labels, cur.Labels) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, cur.Status.Allocatable)
}

func sameNeeds(a, b *request) bool {
	return a.group == b.group && equality.Semantic.DeepEqual(a.pod.Spec, b.pod.Spec) &&
		a.needs.milliCPU == b.needs.milliCPU && a.needs.memory == b.needs.memory && a.needs.ephemeral == b.needs.ephemeral
}

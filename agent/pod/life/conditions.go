package life

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// conditions are the conditions that the node writes, and all others unchanged.
func (p *Pod) conditions(status *corev1.PodStatus) []corev1.PodCondition {
	network := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if (p.setup == SetupDone || p.started()) && p.state < Ended && !terminalPhase(status.Phase) {
		network.Status = corev1.ConditionTrue
	}
	containersReady := p.containersReady(status)
	ready := containersReady
	ready.Type = corev1.PodReady
	if missing := p.missingGates(); ready.Status == corev1.ConditionTrue && len(missing) > 0 {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	own := []corev1.PodCondition{
		network, p.initialized(status), ready, containersReady,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	disrupted := p.hasFailed() && p.failed.disrupted // it was ended for the node's sake
	if disrupted {
		own = append(own, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: p.failed.message,
		})
	}
	if p.drained != nil {
		own = append(own, drainedCondition(p.drained))
	}
	for i := range own {
		own[i].ObservedGeneration = p.pod.Generation
		own[i].LastTransitionTime = p.lastTransition(own[i])
	}
	for _, c := range p.pod.Status.Conditions {
		if !OwnCondition(c.Type) && !(disrupted && c.Type == corev1.DisruptionTarget) {
			own = append(own, c)
		}
	}
	return own
}

func drainedCondition(d *Drained) corev1.PodCondition {
	if d.Problem != "" {
		return corev1.PodCondition{Type: servicespec.PodDrained, Status: corev1.ConditionFalse, Reason: "TimeIsOver", Message: d.Problem}
	}
	return corev1.PodCondition{
		Type: servicespec.PodDrained, Status: corev1.ConditionTrue, Reason: "NoClients",
		Message: "every node has it out of its service maps, and no connection to it was open",
	}
}

// OwnCondition says whether only the node writes a condition.
func OwnCondition(t corev1.PodConditionType) bool {
	switch t {
	case servicespec.PodDrained, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled:
		return true
	}
	return false
}

// lastTransition is when the condition became what it is.
func (p *Pod) lastTransition(c corev1.PodCondition) metav1.Time {
	known := [][]corev1.PodCondition{p.pod.Status.Conditions}
	if p.published != nil {
		known = [][]corev1.PodCondition{p.published.Conditions, p.pod.Status.Conditions}
	}
	for _, list := range known {
		for i := range list {
			if list[i].Type != c.Type {
				continue
			}
			if list[i].Status == c.Status {
				return list[i].LastTransitionTime
			}
			return metav1.NewTime(p.now).Rfc3339Copy()
		}
	}
	return metav1.NewTime(p.now).Rfc3339Copy()
}

func (p *Pod) initialized(status *corev1.PodStatus) corev1.PodCondition {
	condition := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	var incomplete []string
	for _, c := range p.containers {
		if c.Role == Init && !c.succeeded() || c.Role == Sidecar && !c.started {
			incomplete = append(incomplete, c.Name)
		}
	}
	switch {
	case status.Phase == corev1.PodSucceeded:
		condition.Reason = "PodCompleted"
	case len(incomplete) > 0 && !p.mainsBegun():
		condition.Status, condition.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		condition.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return condition
}

func (p *Pod) containersReady(status *corev1.PodStatus) corev1.PodCondition {
	condition := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}
	var unready []string
	for _, s := range status.InitContainerStatuses {
		if p.Container(s.Name).Role == Sidecar && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for _, s := range status.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	switch {
	case status.Phase == corev1.PodSucceeded:
		condition.Status, condition.Reason = corev1.ConditionFalse, "PodCompleted"
	case status.Phase == corev1.PodFailed:
		condition.Status, condition.Reason = corev1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		condition.Status, condition.Reason = corev1.ConditionFalse, "ContainersNotReady"
		condition.Message = fmt.Sprintf("containers with unready status: %s", unready)
	}
	return condition
}

// missingGates are the pod's readiness gates that are not true, in kubelet's words.
func (p *Pod) missingGates() (missing []string) {
gates:
	for _, gate := range p.pod.Spec.ReadinessGates {
		for _, c := range p.pod.Status.Conditions {
			if c.Type == gate.ConditionType {
				if c.Status != corev1.ConditionTrue {
					missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", gate.ConditionType, c.Status))
				}
				continue gates
			}
		}
		missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
	}
	return missing
}

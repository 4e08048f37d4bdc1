package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodCondition returns a condition of a pod, or nil.
func PodCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// PodReady says whether a pod's Ready condition is true.
func PodReady(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodAvailable says whether a pod has been ready for minReady, and if it has not been
// ready for long enough, how long it still lacks.
func PodAvailable(pod *corev1.Pod, minReady time.Duration, now time.Time) (available bool, lacks time.Duration) {
	c := PodCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReady == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, minReady
	}
	lacks = c.LastTransitionTime.Add(minReady).Sub(now)
	return lacks <= 0, max(lacks, 0)
}

// PodTerminal says whether a pod has run to its end and will not run again.
func PodTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodActive says whether a pod has not ended and is not being deleted.
func PodActive(pod *corev1.Pod) bool {
	return !PodTerminal(pod) && pod.DeletionTimestamp == nil
}

// NodeCondition returns a condition of a node, or nil.
func NodeCondition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

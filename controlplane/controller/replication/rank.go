package replication

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// rankForDeletion sorts pods so that those to be deleted first come first, by
// the rules that Kubernetes documents for its ReplicaSets.
func rankForDeletion(pods []*corev1.Pod, now time.Time) {
	sameNode := map[string]int{}
	for _, pod := range pods {
		sameNode[pod.Spec.NodeName]++
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		readyA, readyB := controller.PodReady(a), controller.PodReady(b)
		if c := cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseOrder(a), phaseOrder(b)),
			falseFirst(readyA, readyB),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			-cmp.Compare(sameNode[a.Spec.NodeName], sameNode[b.Spec.NodeName]),
		); c != 0 {
			return c
		}
		if readyA && readyB {
			if c := cmp.Compare(magnitude(readySince(a), now), magnitude(readySince(b), now)); c != 0 {
				return c
			}
		}
		return cmp.Or(
			-cmp.Compare(restarts(a), restarts(b)),
			cmp.Compare(magnitude(a.CreationTimestamp.Time, now), magnitude(b.CreationTimestamp.Time, now)),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case !a:
		return -1
	}
	return 1
}

func phaseOrder(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

func readySince(pod *corev1.Pod) time.Time {
	return controller.PodCondition(pod, corev1.PodReady).LastTransitionTime.Time
}

func restarts(pod *corev1.Pod) (most int32) {
	for i := range pod.Status.ContainerStatuses {
		most = max(most, pod.Status.ContainerStatuses[i].RestartCount)
	}
	return most
}

// magnitude is the order of magnitude of an age. Pods of about the same age compare
// equal, and the UID decides which is deleted first, not the age: otherwise all of a
// scale-up's pods would be deleted from the same hosts.
func magnitude(t, now time.Time) int64 {
	age := now.Sub(t)
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}

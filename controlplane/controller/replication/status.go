package replication

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// writeStatus brings the status up to date, and returns after how long a ready
// pod becomes available without a further change; 0: none does.
func (c *Controller) writeStatus(ctx context.Context, set *podSet, pods []*corev1.Pod, scaleErr error) (time.Duration, error) {
	status, lacks := c.status(set, pods, scaleErr)
	if equality.Semantic.DeepEqual(set.Status, status) {
		return lacks, nil
	}
	_, err := c.registry.Modify(ctx, c.flavour.kind, "status", set.Namespace, set.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != set.UID {
			return nil, apierrors.NewNotFound(c.flavour.kind.GroupResource(), set.Name)
		}
		// A newer spec has not been acted upon yet: observedGeneration stays at the generation that has.
		updated := current.DeepCopyObject().(resource.Object)
		updated.SetResourceVersion("")
		c.flavour.setStatus(updated, status)
		return updated, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return lacks, err
}

func (c *Controller) status(set *podSet, pods []*corev1.Pod, scaleErr error) (status appsv1.ReplicaSetStatus, lacks time.Duration) {
	now := c.clock.Now()
	minReady := time.Duration(set.Spec.MinReadySeconds) * time.Second
	template := labels.SelectorFromValidatedSet(set.Spec.Template.Labels)
	status = *set.Status.DeepCopy()
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = int32(len(pods)), 0, 0, 0
	status.ObservedGeneration = set.Generation
	for _, pod := range pods {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !controller.PodReady(pod) {
			continue
		}
		status.ReadyReplicas++
		available, after := controller.PodAvailable(pod, minReady, now)
		if available {
			status.AvailableReplicas++
		} else if lacks == 0 || after < lacks {
			lacks = after
		}
	}
	status.Conditions = withFailure(status.Conditions, len(pods) < set.wanted(), scaleErr, now)
	return status, lacks
}

// withFailure sets or removes the ReplicaFailure condition.
func withFailure(conditions []appsv1.ReplicaSetCondition, creating bool, err error, now time.Time) []appsv1.ReplicaSetCondition {
	reason := "FailedDelete"
	if creating {
		reason = "FailedCreate"
	}
	var kept []appsv1.ReplicaSetCondition
	for _, cond := range conditions {
		if cond.Type != appsv1.ReplicaSetReplicaFailure {
			kept = append(kept, cond)
		} else if err != nil && cond.Reason == reason {
			return conditions
		}
	}
	if err == nil {
		return kept
	}
	return append(kept, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: err.Error(),
	})
}

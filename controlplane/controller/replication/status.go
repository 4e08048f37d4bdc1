package replication

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// writeStatus brings the status up to date, and returns after how long a ready
// pod becomes available by time alone; 0: none does.
func (c *Controller) writeStatus(ctx context.Context, rc *corev1.ReplicationController, pods []*corev1.Pod, scaleErr error) (time.Duration, error) {
	status, lacks := c.status(rc, pods, scaleErr)
	if equality.Semantic.DeepEqual(rc.Status, status) {
		return lacks, nil
	}
	_, err := c.registry.Modify(ctx, resource.ReplicationControllers, "status", rc.Namespace, rc.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != rc.UID {
			return nil, apierrors.NewNotFound(resource.ReplicationControllers.GroupResource(), rc.Name)
		}
		// A newer spec has not been acted upon: observedGeneration stays at the one that has.
		updated := current.(*corev1.ReplicationController).DeepCopy()
		updated.ResourceVersion = ""
		updated.Status = status
		return updated, nil
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return lacks, err
}

func (c *Controller) status(rc *corev1.ReplicationController, pods []*corev1.Pod, scaleErr error) (status corev1.ReplicationControllerStatus, lacks time.Duration) {
	now := c.clock.Now()
	minReady := time.Duration(rc.Spec.MinReadySeconds) * time.Second
	template := labels.Everything()
	if rc.Spec.Template != nil {
		template = labels.SelectorFromValidatedSet(rc.Spec.Template.Labels)
	}
	status = *rc.Status.DeepCopy()
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = int32(len(pods)), 0, 0, 0
	status.ObservedGeneration = rc.Generation
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
	status.Conditions = withFailure(status.Conditions, len(pods) < wanted(rc), scaleErr, now)
	return status, lacks
}

// withFailure sets or removes the ReplicaFailure condition.
func withFailure(conditions []corev1.ReplicationControllerCondition, creating bool, err error, now time.Time) []corev1.ReplicationControllerCondition {
	reason := "FailedDelete"
	if creating {
		reason = "FailedCreate"
	}
	var kept []corev1.ReplicationControllerCondition
	for _, cond := range conditions {
		if cond.Type != corev1.ReplicationControllerReplicaFailure {
			kept = append(kept, cond)
		} else if err != nil && cond.Reason == reason {
			return conditions
		}
	}
	if err == nil {
		return kept
	}
	return append(kept, corev1.ReplicationControllerCondition{
		Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: err.Error(),
	})
}

package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// report is the message for a pod that fits nowhere; without a message only its nomination changes.
type report struct {
	pod     controller.Key
	uid     types.UID
	message string
	nomination
}

// nomination says what becomes of the pod's nominated node; the zero value leaves it.
type nomination struct {
	set  bool
	node string // "": it is cleared
}

// done says whether a pod has it already.
func (n nomination) done(pod *corev1.Pod) bool {
	return !n.set || pod.Status.NominatedNodeName == n.node
}

// report writes the event and the condition, unless the pod has been bound or deleted meanwhile.
func (s *Scheduler) report(ctx context.Context, r report) error {
	pod, err := resource.Get[*corev1.Pod](ctx, s.registry, kinds.Pods, r.pod.Namespace, r.pod.Name)
	if apierrors.IsNotFound(err) || err == nil && !unbound(pod, r.uid) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.message != "" {
		s.recorder(pod).Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", r.message)
	}
	if hasMessage(pod, r.message) && r.done(pod) {
		return nil
	}
	_, err = s.registry.Modify(ctx, kinds.Pods, "status", r.pod.Namespace, r.pod.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		p := current.(*corev1.Pod)
		if !unbound(p, r.uid) || hasMessage(p, r.message) && r.done(p) {
			return p, nil
		}
		p = p.DeepCopy()
		p.ResourceVersion = ""
		if r.message != "" {
			setUnschedulable(p, r.message, metav1.NewTime(s.clock.Now()))
		}
		if r.set {
			p.Status.NominatedNodeName = r.node
		}
		return p, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func unbound(pod *corev1.Pod, uid types.UID) bool {
	return pod.UID == uid && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil
}

func hasMessage(pod *corev1.Pod, message string) bool {
	c := controller.PodCondition(pod, corev1.PodScheduled)
	return message == "" || c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == message
}

func setUnschedulable(pod *corev1.Pod, message string, now metav1.Time) {
	cond := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation,
		Reason: corev1.PodReasonUnschedulable, Message: message, LastTransitionTime: now,
	}
	if have := controller.PodCondition(pod, corev1.PodScheduled); have != nil {
		if have.Status == cond.Status {
			cond.LastTransitionTime = have.LastTransitionTime
		}
		*have = cond
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, cond)
}

package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// syncPod evicts, removes or marks one pod as the state of its node requires.
func (c *Controller) syncPod(ctx context.Context, key controller.Key) error {
	pod, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) || err == nil && pod.Spec.NodeName == "" {
		return nil
	}
	if err != nil {
		return err
	}
	node, err := resource.Get[*corev1.Node](ctx, c.registry, kinds.Nodes, "", pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if unreachable(node) {
		// The node has the taint but is not silent: it is back, or this process has just begun
		// and has not noticed yet. The node's sync queues its pods again.
		if !c.health.isSilent(node.Name) {
			return nil
		}
		if err := c.markNotReady(ctx, pod); err != nil {
			return err
		}
	}
	if pod.DeletionTimestamp != nil {
		return c.finish(ctx, pod, node)
	}
	when, evict := evictionTime(pod, node, c.clock.Now())
	if !evict || controller.PodTerminal(pod) {
		return nil
	}
	if wait := when.Sub(c.clock.Now()); wait > 0 {
		c.pods.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, pod)
}

// unreachable says whether a node has the unreachable taint. Without it evictions wait.
func unreachable(node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].Key == corev1.TaintNodeUnreachable {
			return true
		}
	}
	return false
}

// evictionTime is when the taints of its node evict a pod, if they ever do.
func evictionTime(pod *corev1.Pod, node *corev1.Node, now time.Time) (when time.Time, evict bool) {
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		since := now
		if t.TimeAdded != nil {
			since = t.TimeAdded.Time
		}
		stay, forever := tolerated(pod, t)
		if forever {
			continue
		}
		if at := since.Add(stay); !evict || at.Before(when) {
			when, evict = at, true
		}
	}
	return when, evict
}

// tolerated is how long a pod tolerates a taint: the shortest of the tolerations that match.
func tolerated(pod *corev1.Pod, t *corev1.Taint) (stay time.Duration, forever bool) {
	shortest := time.Duration(-1)
	matched := false
	for i := range pod.Spec.Tolerations {
		tol := &pod.Spec.Tolerations[i]
		if !tol.ToleratesTaint(klog.Logger{}, t, false) {
			continue
		}
		matched = true
		if tol.TolerationSeconds == nil {
			continue
		}
		stay := time.Duration(max(*tol.TolerationSeconds, 0)) * time.Second
		if shortest < 0 || stay < shortest {
			shortest = stay
		}
	}
	if !matched {
		return 0, false
	}
	return shortest, shortest < 0
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	_, _, err := c.registry.Delete(ctx, kinds.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		c.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	}
	return err
}

// finish removes a deleted pod that its silent node has not reported as stopped, once the
// node has had the time to.
func (c *Controller) finish(ctx context.Context, pod *corev1.Pod, node *corev1.Node) error {
	if !unreachable(node) {
		return nil
	}
	if wait := pod.DeletionTimestamp.Add(finalAfter).Sub(c.clock.Now()); wait > 0 {
		c.pods.AddAfter(controller.KeyOf(pod), wait)
		return nil
	}
	_, _, err := c.registry.Delete(ctx, kinds.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0),
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// markNotReady removes a pod of a silent node from its services.
func (c *Controller) markNotReady(ctx context.Context, pod *corev1.Pod) error {
	if !controller.PodReady(pod) {
		return nil
	}
	_, err := c.registry.Modify(ctx, kinds.Pods, "status", pod.Namespace, pod.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		p := current.(*corev1.Pod)
		if p.UID != pod.UID || !controller.PodReady(p) || !c.health.isSilent(p.Spec.NodeName) {
			return p, nil
		}
		p = p.DeepCopy()
		p.ResourceVersion = ""
		cond := controller.PodCondition(p, corev1.PodReady)
		cond.Status, cond.Reason, cond.Message = corev1.ConditionFalse, "NodeNotReady", ""
		cond.LastTransitionTime = metav1.NewTime(c.clock.Now())
		return p, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		c.recorder.Eventf(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return err
}

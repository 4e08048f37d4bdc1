package replication

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// scale creates missing pods or deletes surplus ones.
func (c *Controller) scale(ctx context.Context, set *podSet, pods []*corev1.Pod) error {
	switch surplus := len(pods) - set.wanted(); {
	case surplus < 0:
		return c.create(ctx, set, min(-surplus, burst))
	case surplus > 0:
		ranked := append([]*corev1.Pod(nil), pods...)
		rankForDeletion(ranked, c.clock.Now())
		return c.delete(ctx, set, ranked[:min(surplus, burst)])
	}
	return nil
}

// create makes n pods, few at a time at first: a template that is always refused costs one request and one event.
func (c *Controller) create(ctx context.Context, set *podSet, n int) error {
	_, err := controller.SlowStart(n, func() error { return c.createOne(ctx, set) })
	return err
}

func (c *Controller) createOne(ctx context.Context, set *podSet) error {
	pod, err := c.pods.Create(ctx, newPod(set))
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return err
	}
	c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

func (c *Controller) delete(ctx context.Context, set *podSet, pods []*corev1.Pod) error {
	_, err := controller.InParallel(len(pods), func(i int) error {
		deleted, err := c.pods.Delete(ctx, pods[i])
		switch {
		case err != nil:
			c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		case deleted:
			c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pods[i].Name)
		}
		return err
	})
	return err
}

// newPod makes a pod from the template.
func newPod(set *podSet) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       set.Namespace,
			GenerateName:    set.Name + "-",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, set.kind)},
		},
	}
	t := set.Spec.Template.DeepCopy()
	pod.Labels, pod.Annotations, pod.Finalizers, pod.Spec = t.Labels, t.Annotations, t.Finalizers, t.Spec
	return pod
}

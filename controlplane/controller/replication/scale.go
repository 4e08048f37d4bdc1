package replication

import (
	"context"
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// scale creates what lacks or deletes what is too many.
func (c *Controller) scale(ctx context.Context, set *podSet, pods []*corev1.Pod) error {
	switch surplus := len(pods) - set.wanted(); {
	case surplus < 0:
		return c.create(ctx, set, min(-surplus, burst))
	case surplus > 0:
		doomed := append([]*corev1.Pod(nil), pods...)
		rankForDeletion(doomed, c.clock.Now())
		return c.delete(ctx, set, doomed[:min(surplus, burst)])
	}
	return nil
}

// create makes n pods: one, then twice as many at a time as long as all
// succeed, so that a template that is always refused costs one request and
// one event, not n.
func (c *Controller) create(ctx context.Context, set *podSet, n int) error {
	for batch := 1; n > 0; batch *= 2 {
		batch = min(batch, n)
		if err := inParallel(batch, func(int) error { return c.createOne(ctx, set) }); err != nil {
			return err
		}
		n -= batch
	}
	return nil
}

// createOne makes one pod. A write that has begun is seen to its end though ctx
// ends: given up halfway it could land after the next loop has counted.
func (c *Controller) createOne(ctx context.Context, set *podSet) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	obj, err := c.registry.Create(ctx, kinds.Pods, newPod(set), resource.CreateOptions{})
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return err
	}
	pod := obj.(*corev1.Pod)
	c.pods.wrote(pod)
	c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

func (c *Controller) delete(ctx context.Context, set *podSet, pods []*corev1.Pod) error {
	return inParallel(len(pods), func(i int) error {
		pod := pods[i]
		c.pods.doom(pod)
		_, _, err := c.registry.Delete(ctx, kinds.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
		switch {
		case err == nil:
			c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
			return nil
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			// It went by another hand; its deletion, which lifts the doom, has been or will be delivered.
			c.forgetIfGone(ctx, pod)
			return nil
		}
		c.pods.reprieve(pod)
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return err
	})
}

// forgetIfGone lifts the doom of a pod whose deletion was delivered before it was doomed.
func (c *Controller) forgetIfGone(ctx context.Context, pod *corev1.Pod) {
	current, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, pod.Namespace, pod.Name)
	if err != nil || current.UID != pod.UID {
		c.pods.reprieve(pod)
	}
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

// inParallel calls f for 0 to n-1 at once and joins the errors, equal ones once.
func inParallel(n int, f func(int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	seen := map[string]struct{}{}
	var distinct []error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if _, dup := seen[err.Error()]; !dup {
			seen[err.Error()] = struct{}{}
			distinct = append(distinct, err)
		}
	}
	return errors.Join(distinct...)
}

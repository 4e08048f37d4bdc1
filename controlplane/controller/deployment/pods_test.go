package deployment_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// runPods gives every pod the status that a node would give it.
func runPods(ctx context.Context, t *testing.T, r *resource.Registry, ready func(image string) bool) {
	queue := controller.NewQueue[controller.Key]("pods of " + t.Name())
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, r, kinds.Pods, func(_, cur *corev1.Pod, _ int64) {
		if cur != nil && cur.Status.Phase == corev1.PodPending {
			queue.Add(controller.KeyOf(cur))
		}
	})
	queue.Run(ctx, 1, func(ctx context.Context, key controller.Key) error {
		_, err := r.Modify(ctx, kinds.Pods, "status", key.Namespace, key.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			pod := current.(*corev1.Pod).DeepCopy()
			pod.ResourceVersion = ""
			pod.Status.Phase = corev1.PodRunning
			if ready(pod.Spec.Containers[0].Image) {
				pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			}
			return pod, nil
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	wg.Wait()
}

// watchImages reports the first moment at which pods of two images exist, terminating ones included.
func watchImages(ctx context.Context, r *resource.Registry, mixed chan<- string) {
	var wg sync.WaitGroup
	count := map[string]int{}
	controller.Observe(ctx, &wg, r, kinds.Pods, func(old, cur *corev1.Pod, revision int64) {
		if old != nil {
			count[old.Spec.Containers[0].Image]--
		}
		if cur != nil {
			count[cur.Spec.Containers[0].Image]++
		}
		if count["i:1"] > 0 && count["i:2"] > 0 {
			select {
			case mixed <- "pods of both templates at revision " + strconv.FormatInt(revision, 10):
			default:
			}
		}
	})
	wg.Wait()
}

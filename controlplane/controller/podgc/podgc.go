// Package podgc removes pods that nothing else removes, as Kubernetes' pod garbage collector does: those bound to a node that does
// not exist, those that are being deleted and were never bound, those that are being deleted on a node that is out of service, and
// the oldest of the terminated ones when there are more than a threshold. It never removes a pod whose node it cannot prove to be
// absent: absence is asked of the store, not of a cache.
package podgc

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// DefaultThreshold is how many terminated pods are kept, as in kube-controller-manager.
const DefaultThreshold = 12500

const (
	workers = 8
	// quarantine is how long pods of a node that does not exist are kept: a node may be created again under its name.
	quarantine = 5 * time.Second
	// excessDelay is how long pods that terminate above the threshold are collected before they are removed together.
	excessDelay = time.Second
	// burst is how many terminated pods are removed at a time.
	burst = 500
)

// reason is why a pod is removed, in Kubernetes' words.
type reason string

const (
	terminated   reason = "terminated"
	outOfService reason = "out-of-service"
	orphaned     reason = "orphaned"
	unscheduled  reason = "unscheduled"
)

// Controller is the pod garbage collector.
type Controller struct {
	registry  *resource.Registry
	threshold int
	pods      *controller.Queue[controller.Key]
	excess    *controller.Queue[struct{}]

	mu sync.Mutex
	// terminated are the pods that have run to their end and are not being deleted.
	terminated map[types.UID]struct{}
}

// New makes the loop, which keeps threshold terminated pods; 0 or less: all. It runs once.
func New(registry *resource.Registry, threshold int) *Controller {
	return &Controller{
		registry: registry, threshold: threshold,
		pods:       controller.NewQueue[controller.Key]("podgc"),
		excess:     controller.NewQueue[struct{}]("podgc_terminated"),
		terminated: map[types.UID]struct{}{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	wg.Go(func() { c.pods.Run(ctx, workers, c.syncPod) })
	wg.Go(func() { c.excess.Run(ctx, 1, c.syncExcess) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	switch {
	case cur == nil:
		for _, pod := range c.podsOf(old.Name) {
			c.pods.AddAfter(controller.KeyOf(pod), quarantine)
		}
	case isOutOfService(cur):
		for _, pod := range c.podsOf(cur.Name) {
			if pod.DeletionTimestamp != nil {
				c.pods.Add(controller.KeyOf(pod))
			}
		}
	}
}

func (c *Controller) podsOf(node string) []*corev1.Pod {
	return resource.ByIndex[*corev1.Pod](c.registry, kinds.Pods, kinds.PodsByNode, node)
}

func (c *Controller) podChanged(old, cur *corev1.Pod, _ int64) {
	c.count(old, cur)
	if cur == nil {
		return
	}
	node := c.cachedNode(cur.Spec.NodeName)
	switch {
	case cur.Spec.NodeName != "" && node == nil:
		c.pods.AddAfter(controller.KeyOf(cur), quarantine)
	case cur.DeletionTimestamp != nil && (node == nil || isOutOfService(node)):
		c.pods.Add(controller.KeyOf(cur))
	}
}

// cachedNode returns a node, nil if the cache has none of the name.
func (c *Controller) cachedNode(name string) *corev1.Node {
	if name == "" {
		return nil
	}
	node, err := resource.Get[*corev1.Node](context.Background(), c.registry, kinds.Nodes, "", name)
	if err != nil {
		return nil
	}
	return node
}

func isOutOfService(node *corev1.Node) bool {
	ready := controller.NodeCondition(node, corev1.NodeReady)
	return (ready == nil || ready.Status != corev1.ConditionTrue) &&
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// count records whether a pod has terminated.
func (c *Controller) count(old, cur *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old != nil {
		delete(c.terminated, old.UID)
	}
	if isCollectable(cur) {
		c.terminated[cur.UID] = struct{}{}
	}
	if c.threshold > 0 && len(c.terminated) > c.threshold {
		c.excess.AddAfter(struct{}{}, excessDelay)
	}
}

func isCollectable(pod *corev1.Pod) bool {
	return pod != nil && controller.PodTerminal(pod) && pod.DeletionTimestamp == nil
}

// syncExcess removes terminated pods above the threshold: evicted ones first, and the oldest first.
func (c *Controller) syncExcess(ctx context.Context, _ struct{}) error {
	pods := slices.DeleteFunc(resource.ListAs[*corev1.Pod](c.registry, kinds.Pods, "", labels.Everything()), func(pod *corev1.Pod) bool { return !isCollectable(pod) })
	excess := len(pods) - c.threshold
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			evictedFirst(a, b),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Namespace, b.Namespace),
		)
	})
	_, err := controller.InParallel(min(excess, burst), func(i int) error { return c.remove(ctx, pods[i], terminated) })
	if err == nil && excess > burst {
		c.excess.Add(struct{}{})
	}
	return err
}

func evictedFirst(a, b *corev1.Pod) int {
	switch evicted := isEvicted(a); {
	case evicted == isEvicted(b):
		return 0
	case evicted:
		return -1
	}
	return 1
}

func isEvicted(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted"
}

// syncPod removes one pod if nothing else will.
func (c *Controller) syncPod(ctx context.Context, key controller.Key) error {
	pod, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp == nil {
			return nil
		}
		return c.remove(ctx, pod, unscheduled)
	}
	obj, err := c.registry.Get(ctx, kinds.Nodes, "", pod.Spec.NodeName, "")
	switch {
	case apierrors.IsNotFound(err):
		return c.remove(ctx, pod, orphaned)
	case err != nil:
		return err
	case pod.DeletionTimestamp != nil && isOutOfService(obj.(*corev1.Node)):
		return c.remove(ctx, pod, outOfService)
	}
	return nil
}

// remove deletes a pod without waiting for its node. It first marks one that has not run to its end as failed, since no agent does.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod, why reason) error {
	err := c.markFailed(ctx, pod, why)
	if err == nil {
		_, _, err = c.registry.Delete(ctx, kinds.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0),
			Preconditions:      &metav1.Preconditions{UID: &pod.UID},
		})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	removedTotal.WithLabelValues(pod.Namespace, string(why)).Inc()
	if err != nil {
		errorsTotal.WithLabelValues(pod.Namespace, string(why)).Inc()
	}
	return err
}

func (c *Controller) markFailed(ctx context.Context, pod *corev1.Pod, why reason) error {
	if controller.PodTerminal(pod) {
		return nil
	}
	_, err := c.registry.Modify(ctx, kinds.Pods, "status", pod.Namespace, pod.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		p := current.(*corev1.Pod)
		if p.UID != pod.UID || controller.PodTerminal(p) {
			return p, nil
		}
		p = p.DeepCopy()
		p.ResourceVersion = ""
		p.Status.Phase = corev1.PodFailed
		p.Status.ObservedGeneration = apipod.CalculatePodStatusObservedGeneration(p)
		if why == orphaned {
			apipod.UpdatePodCondition(&p.Status, &corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
				ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&p.Status, p.Generation, corev1.DisruptionTarget),
			})
		}
		return p, nil
	})
	return err
}

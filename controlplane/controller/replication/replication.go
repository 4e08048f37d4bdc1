// Package replication keeps as many pods of every ReplicationController as it
// asks for. It owns which pods a controller claims, creates and deletes, and
// the controller's status. It never binds pods to nodes, and it never waits for
// a pod that is being deleted: that one counts as gone.
package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "replication-controller"

const (
	workers = 8
	// resync is how often every controller is looked at though nothing happened.
	resync = 10 * time.Minute
	// burst is the most pods that one sync creates or deletes for one controller.
	burst = 500
	// writeTimeout bounds the creation of one pod.
	writeTimeout = 10 * time.Second
)

var kind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

// Controller is the replication loop.
type Controller struct {
	registry *resource.Registry
	recorder *event.Recorder
	clock    clock.WithTicker
	queue    *controller.Queue[controller.Key]
	pods     *podIndex
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker) *Controller {
	return &Controller{
		registry: registry, recorder: recorder, clock: clock,
		queue: controller.NewQueue[controller.Key]("replication"),
		pods:  newPodIndex(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, resource.Pods, c.podChanged)
	controller.Observe(ctx, &wg, c.registry, resource.ReplicationControllers, func(_, cur *corev1.ReplicationController, _ int64) {
		if cur != nil {
			c.queue.Add(controller.KeyOf(cur))
		}
	})
	wg.Go(func() { c.resync(ctx) })
	c.queue.Run(ctx, workers, c.sync)
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) resync(ctx context.Context) {
	ticker := c.clock.NewTicker(resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			for _, rc := range resource.ListAs[*corev1.ReplicationController](c.registry, resource.ReplicationControllers, "", labels.Everything()) {
				c.queue.Add(controller.KeyOf(rc))
			}
		}
	}
}

func (c *Controller) podChanged(old, cur *corev1.Pod, revision int64) {
	c.pods.deliver(old, cur, revision)
	var before, after *metav1.OwnerReference
	if old != nil {
		before = owner(old)
	}
	if cur != nil {
		after = owner(cur)
	}
	if before != nil {
		c.queue.Add(controller.Key{Namespace: old.Namespace, Name: before.Name})
	}
	if after != nil && (before == nil || after.UID != before.UID) {
		c.queue.Add(controller.Key{Namespace: cur.Namespace, Name: after.Name})
	}
	if cur == nil || metav1.GetControllerOfNoCopy(cur) != nil {
		return
	}
	// An orphan: whoever selects it now, or did before, has a say.
	for _, rc := range resource.ListAs[*corev1.ReplicationController](c.registry, resource.ReplicationControllers, cur.Namespace, labels.Everything()) {
		if s := selectorOf(rc); s.Matches(labels.Set(cur.Labels)) || old != nil && s.Matches(labels.Set(old.Labels)) {
			c.queue.Add(controller.KeyOf(rc))
		}
	}
}

func (c *Controller) sync(ctx context.Context, key controller.Key) error {
	rc, err := resource.Get[*corev1.ReplicationController](ctx, c.registry, resource.ReplicationControllers, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	pods, err := c.claim(ctx, rc)
	if err != nil {
		return err
	}
	var scaleErr error
	if rc.DeletionTimestamp == nil {
		scaleErr = c.scale(ctx, rc, pods)
	}
	lacks, err := c.writeStatus(ctx, rc, pods, scaleErr)
	if err != nil {
		return err
	}
	if lacks > 0 {
		c.queue.AddAfter(key, lacks)
	}
	return scaleErr
}

// owner returns the reference to the ReplicationController that controls a pod, or nil.
func owner(pod *corev1.Pod) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return nil
	}
	return ref
}

// selectorOf returns what a controller selects; without a selector that is nothing.
func selectorOf(rc *corev1.ReplicationController) labels.Selector {
	if len(rc.Spec.Selector) == 0 {
		return labels.Nothing()
	}
	return labels.SelectorFromValidatedSet(rc.Spec.Selector)
}

func wanted(rc *corev1.ReplicationController) int {
	if rc.Spec.Replicas == nil {
		return 1
	}
	return int(*rc.Spec.Replicas)
}

func describe(rc *corev1.ReplicationController) string {
	return fmt.Sprintf("replication controller %s/%s", rc.Namespace, rc.Name)
}

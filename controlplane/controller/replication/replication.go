// Package replication keeps as many pods of every ReplicationController and
// ReplicaSet as it asks for, in a loop for each of the two kinds. It owns which
// pods a set claims, creates and deletes, and the set's status. It never binds pods to nodes, and it never waits for
// a pod that is being deleted: that one counts as gone.
package replication

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// The sources of the loops' events.
const (
	Component            = "replication-controller"
	ReplicaSetsComponent = "replicaset-controller"
)

const (
	workers = 8
	// resync is how often every controller is looked at though nothing happened.
	resync = 10 * time.Minute
	// burst is the most pods that one sync creates or deletes for one controller.
	burst = 500
	// writeTimeout bounds the creation of one pod.
	writeTimeout = 10 * time.Second
)

// Controller is the replication loop of one kind.
type Controller struct {
	flavour  *flavour
	registry *resource.Registry
	recorder *event.Recorder
	clock    clock.WithTicker
	queue    *controller.Queue[controller.Key]
	pods     *podIndex
}

// New makes the loop of ReplicationControllers. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker) *Controller {
	return newController(&replicationControllers, registry, recorder, clock)
}

// NewReplicaSets makes the loop of ReplicaSets. It runs once.
func NewReplicaSets(registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker) *Controller {
	return newController(&replicaSets, registry, recorder, clock)
}

func newController(f *flavour, registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker) *Controller {
	return &Controller{
		flavour: f, registry: registry, recorder: recorder, clock: clock,
		queue: controller.NewQueue[controller.Key](f.kind.Resource),
		pods:  newPodIndex(f.kind.GVK),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	controller.Observe(ctx, &wg, c.registry, c.flavour.kind, func(_, cur resource.Object, _ int64) {
		if cur != nil {
			c.queue.Add(controller.KeyOf(cur))
		}
	})
	controller.Go(ctx, &wg, "replication", func() { c.resync(ctx) })
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
			for _, obj := range resource.ListAs[resource.Object](c.registry, c.flavour.kind, "", labels.Everything()) {
				c.queue.Add(controller.KeyOf(obj))
			}
		}
	}
}

func (c *Controller) podChanged(old, cur *corev1.Pod, revision int64) {
	c.pods.deliver(old, cur, revision)
	var before, after *metav1.OwnerReference
	if old != nil {
		before = owner(old, c.flavour.kind.GVK)
	}
	if cur != nil {
		after = owner(cur, c.flavour.kind.GVK)
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
	for _, obj := range resource.ListAs[resource.Object](c.registry, c.flavour.kind, cur.Namespace, labels.Everything()) {
		if s := c.flavour.podSet(obj).selector; s.Matches(labels.Set(cur.Labels)) || old != nil && s.Matches(labels.Set(old.Labels)) {
			c.queue.Add(controller.KeyOf(obj))
		}
	}
}

func (c *Controller) sync(ctx context.Context, key controller.Key) error {
	obj, err := resource.Get[resource.Object](ctx, c.registry, c.flavour.kind, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	set := c.flavour.podSet(obj)
	pods, err := c.claim(ctx, set)
	if err != nil {
		return err
	}
	var scaleErr error
	if set.DeletionTimestamp == nil {
		scaleErr = c.scale(ctx, set, pods)
	}
	lacks, err := c.writeStatus(ctx, set, pods, scaleErr)
	if err != nil {
		return err
	}
	if lacks > 0 {
		c.queue.AddAfter(key, lacks)
	}
	return scaleErr
}

// owner returns the reference to the ReplicationController that controls a pod, or nil.
func owner(pod *corev1.Pod, kind schema.GroupVersionKind) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return nil
	}
	return ref
}

// Package replication keeps as many pods of every ReplicationController and
// ReplicaSet as it asks for, in a loop for each of the two kinds. It owns which
// pods a set claims, creates and deletes, and the set's status. It never binds pods to nodes, and it never waits for
// a pod that is being deleted: that one no longer counts.
package replication

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/dependents"
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
	// resync is how often every controller is checked without a change.
	resync = 10 * time.Minute
	// burst is the maximum number of pods that one sync creates or deletes for one controller.
	burst = 500
)

// Controller is the replication loop of one kind.
type Controller struct {
	flavour  *flavour
	registry *resource.Registry
	recorder *event.Recorder
	clock    clock.WithTicker
	queue    *controller.Queue[controller.Key]
	pods     *dependents.Dependents[*corev1.Pod]
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
		pods: dependents.New[*corev1.Pod](registry, dependents.Owners{
			Kind: f.kind, Selector: func(obj resource.Object) labels.Selector { return f.podSet(obj).selector },
		}, kinds.Pods, clock),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.pods.Observe(ctx, &wg, c.queue.Add)
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

func (c *Controller) sync(ctx context.Context, key controller.Key) error {
	obj, err := resource.Get[resource.Object](ctx, c.registry, c.flavour.kind, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	set := c.flavour.podSet(obj)
	pods, err := c.pods.Claim(ctx, set, set.selector, controller.PodActive)
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

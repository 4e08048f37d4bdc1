// Package node acts on nodes that stop reporting and on taints that evict. It owns
// the Unknown state of node conditions, the taints that conditions ask for,
// the readiness of pods on a silent node, and evictions by taints. It never starts
// anything on a node, and it does not use the clocks of nodes.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "node-controller"

// DefaultGrace is how long a node may be silent.
const DefaultGrace = 5 * time.Second

const (
	workers    = 8
	podWorkers = 16
	// looksPerGrace is how often within the grace nodes are looked at.
	looksPerGrace = 25
	// hold is how long evictions wait while most of the nodes are silent.
	hold = time.Minute
	// returnGraces is how many graces the other nodes have to return after all nodes were silent.
	returnGraces = 3
	// finalAfter is how long after the end of its grace period a deleted pod is kept whose
	// node is silent. Until then the node may return and report that it stopped the pod.
	finalAfter = 2 * time.Minute
	// confirmTimeout bounds the read that confirms a silence.
	confirmTimeout = 2 * time.Second
)

// Controller is the node lifecycle loop.
type Controller struct {
	registry *resource.Registry
	recorder *event.Recorder
	clock    clock.WithTicker
	health   *health
	nodes    *controller.Queue[string]
	pods     *controller.Queue[controller.Key]

	// answers says whether a node's host answers this one.
	answers func(context.Context, *corev1.Node) bool

	heldMu sync.Mutex
	held   time.Time // since when most nodes have been silent; zero: they are not
	all    time.Time // when last all nodes were silent
	zones  string    // those in which too many nodes seem gone for early evictions, as logged last
}

// New makes the loop; grace is how long a node may be silent. A node that others cannot reach is given less, unless its host answers:
// answers asks it, for a short time. The loop runs once.
func New(registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker, grace time.Duration, answers func(context.Context, *corev1.Node) bool) *Controller {
	return &Controller{
		registry: registry, recorder: recorder, clock: clock, answers: answers,
		health: newHealth(grace),
		nodes:  controller.NewQueueOn[string]("node", clock),
		pods:   controller.NewQueueOn[controller.Key]("eviction", clock),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Leases, c.leaseChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	ticker := c.clock.NewTicker(max(c.health.grace/looksPerGrace, 10*time.Millisecond))
	defer ticker.Stop()
	c.health.start(c.clock.Now())
	controller.Go(ctx, &wg, "node", func() { c.look(ctx, ticker) })
	wg.Go(func() { c.nodes.Run(ctx, workers, c.syncNode) })
	wg.Go(func() { c.pods.Run(ctx, podWorkers, c.syncPod) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	if cur == nil {
		c.health.forget(old.Name)
		return
	}
	now := c.clock.Now()
	c.health.watchNode(cur.Name, cur.Labels[corev1.LabelTopologyZone], now)
	c.evidenceChanged(cur, now)
	if cond := controller.NodeCondition(cur, corev1.NodeReady); cond != nil && cond.Status != corev1.ConditionUnknown {
		c.health.observe(cur.Name, fromStatus, cond.LastHeartbeatTime.String(), now)
	}
	c.nodes.Add(cur.Name)
}

func (c *Controller) leaseChanged(_, cur *coordinationv1.Lease, _ int64) {
	if cur == nil || cur.Namespace != corev1.NamespaceNodeLease {
		return
	}
	if c.health.observe(cur.Name, fromLease, leaseSign(cur), c.clock.Now()) {
		slog.Info("Node is ready again", "node", cur.Name)
		c.nodes.Add(cur.Name)
	}
}

func leaseSign(lease *coordinationv1.Lease) string {
	if lease.Spec.RenewTime == nil {
		return ""
	}
	return lease.Spec.RenewTime.String()
}

func (c *Controller) podChanged(old, cur *corev1.Pod, _ int64) {
	// What matters to eviction of a pod: that it is on a node, what it tolerates, and that it is being deleted.
	if cur == nil || cur.Spec.NodeName == "" {
		return
	}
	if old == nil || old.Spec.NodeName == "" || old.UID != cur.UID || cur.DeletionTimestamp != nil ||
		len(old.Spec.Tolerations) != len(cur.Spec.Tolerations) || controller.PodReady(old) != controller.PodReady(cur) {
		c.pods.Add(controller.KeyOf(cur))
	}
}

// look finds nodes that have fallen silent.
func (c *Controller) look(ctx context.Context, ticker clock.Ticker) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			names, held := c.health.overdue(c.clock.Now())
			for _, name := range names {
				c.nodes.Add(name)
			}
			c.noteHeldZones(held)
		}
	}
}

// confirm asks the store whether a node that seems silent has renewed its lease after
// all: a late watch must not evict a host's pods. It fails if the store does not answer;
// the node is not declared silent then.
func (c *Controller) confirm(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	obj, err := c.registry.Get(ctx, kinds.Leases, corev1.NamespaceNodeLease, name, "")
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("node %s seems silent, but its lease cannot be read: %w", name, err)
	default:
		c.health.observe(name, fromLease, leaseSign(obj.(*coordinationv1.Lease)), c.clock.Now())
	}
	return nil
}

// syncNode brings conditions, taints and the readiness of pods in line with a node's state.
func (c *Controller) syncNode(ctx context.Context, name string) error {
	node, err := resource.Get[*corev1.Node](ctx, c.registry, kinds.Nodes, "", name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.judge(ctx, node); err != nil {
		return err
	}
	if c.health.isSilent(name) {
		if err := c.markUnknown(ctx, node); err != nil {
			return err
		}
		if wait := c.holdFor(); wait > 0 {
			slog.Warn("Too many nodes do not report; evictions are paused", "node", name, "for", wait)
			c.nodes.AddAfter(name, wait)
			return nil
		}
	}
	node, err = c.reconcileTaints(ctx, node)
	if err != nil {
		return err
	}
	for _, pod := range resource.ByIndex[*corev1.Pod](c.registry, kinds.Pods, kinds.PodsByNode, node.Name) {
		c.pods.Add(controller.KeyOf(pod))
	}
	return nil
}

// holdFor is how long to wait before pods of silent nodes are evicted. While all nodes
// are silent the wait has no end, and when the first is back the others get time to
// return as well: the caller asks again.
func (c *Controller) holdFor() time.Duration {
	now := c.clock.Now()
	state := c.health.disrupted(now)
	grace := c.health.grace
	c.heldMu.Lock()
	defer c.heldMu.Unlock()
	var remaining time.Duration
	switch state {
	case fullDisruption:
		c.all = now
		return grace
	case partialDisruption:
		if c.held.IsZero() {
			c.held = now
		}
		remaining = c.held.Add(hold).Sub(now)
	default:
		c.held = time.Time{}
	}
	if !c.all.IsZero() {
		remaining = max(remaining, c.all.Add(returnGraces*grace).Sub(now))
	}
	return min(max(remaining, 0), grace)
}

// Package rebalance moves replicas of the workloads that ask for it, by the annotation skep.io/rebalance, when nodes have come or changed so that they could
// be spread better. It evicts one pod of the cluster at a time, through the eviction API's own code. It decides neither where pods go, which is the
// scheduler's, nor what should move, which is package plan's.
package rebalance

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/eviction"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/rebalance"
	"github.com/skep-io/skep/controlplane/rebalance/plan"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Component is the source of this loop's events.
const Component = "rebalancer"

// Pace is how quickly the loop acts.
type Pace struct {
	// Settle is how long no node may have come, gone or changed: a host that comes and goes moves nothing.
	Settle time.Duration
	// Look is how often workloads are looked at.
	Look time.Duration
	// Between is the time between two moves.
	Between time.Duration
	// Timeout is that of a rebalance.Driver.
	Timeout time.Duration
}

// DefaultPace is for clusters of any size: a move disturbs, and nothing is lost by waiting.
var DefaultPace = Pace{Settle: time.Minute, Look: 15 * time.Second, Between: 5 * time.Second, Timeout: 5 * time.Minute}

// Controller is the loop.
type Controller struct {
	registry      *resource.Registry
	recorder      *event.Recorder
	configuration *scheduler.Configuration
	pace          Pace

	mu      sync.Mutex
	changed time.Time // when a node changed last
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder, configuration *scheduler.Configuration, pace Pace) *Controller {
	return &Controller{registry: registry, recorder: recorder, configuration: configuration, pace: pace}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Nodes, c.nodeChanged)
	controller.Go(ctx, &wg, "rebalancing", func() { c.loop(ctx) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) nodeChanged(old, cur *corev1.Node, _ int64) {
	if old != nil && cur != nil && takesPods(old) == takesPods(cur) && maps.Equal(old.Labels, cur.Labels) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = time.Now()
}

func takesPods(node *corev1.Node) bool {
	ready := controller.NodeCondition(node, corev1.NodeReady)
	return !node.Spec.Unschedulable && ready != nil && ready.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0
}

// lastChange is when a node changed last.
func (c *Controller) lastChange() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *Controller) loop(ctx context.Context) {
	driver := &rebalance.Driver{Cluster: c, Timeout: c.pace.Timeout, Say: func(line string) { slog.Info("Rebalancing replicas", "progress", line) }}
	var of time.Time // the change of nodes by which workloads are left alone
	for wait := c.pace.Look; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = c.pace.Look
		last := c.lastChange()
		if time.Since(last) < c.pace.Settle || !c.wanted() {
			continue
		}
		if last != of {
			of = last
			driver.Reset()
		}
		moved, err := driver.Step(ctx)
		if err != nil && ctx.Err() == nil {
			slog.Warn("Replicas not moved", "err", err)
		}
		if moved {
			wait = c.pace.Between
		}
	}
}

// wanted says whether any workload asks for this.
func (c *Controller) wanted() bool {
	on := func(o metav1.Object) bool {
		return o.GetAnnotations()[servicespec.RebalanceAnnotation] == servicespec.RebalanceOn
	}
	for _, n := range resource.ListAs[*corev1.Namespace](c.registry, kinds.Namespaces, "", nil) {
		if on(n) {
			return true
		}
	}
	for _, rc := range resource.ListAs[*corev1.ReplicationController](c.registry, kinds.ReplicationControllers, "", nil) {
		if on(rc) {
			return true
		}
	}
	for _, rs := range resource.ListAs[*appsv1.ReplicaSet](c.registry, kinds.ReplicaSets, "", nil) {
		if on(rs) {
			return true
		}
	}
	return false
}

// Plan is of the workloads that ask for it.
func (c *Controller) Plan(ctx context.Context, except []string) (skepv1.RebalancePlan, error) {
	state, err := plan.Gather(ctx, c.registry)
	if err != nil {
		return skepv1.RebalancePlan{}, err
	}
	return plan.Make(c.configuration, state, plan.Options{RebalanceQuery: skepv1.RebalanceQuery{Except: except, Limit: 1}, OptedIn: true}), nil
}

// Evict evicts a pod and says why in an event.
func (c *Controller) Evict(ctx context.Context, m skepv1.RebalanceMove) error {
	pod, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, m.Namespace, m.Pod)
	if err != nil {
		return err
	}
	if string(pod.UID) != m.UID {
		return apierrors.NewNotFound(corev1.Resource("pods"), m.Pod)
	}
	if err := eviction.Evict(ctx, c.registry, m.Namespace, m.Pod, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID(m.UID))}}); err != nil {
		return err
	}
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "Rebalanced", "Evicted from %s, to be replaced on %s: %s", m.From, m.To, m.Reason)
	return nil
}

// Replicas reads the store's state, so that none of the replicas is missed that a controller has made.
func (c *Controller) Replicas(ctx context.Context, m skepv1.RebalanceMove) (of []rebalance.Replica, err error) {
	if err := c.registry.WaitForStore(ctx, kinds.Pods); err != nil {
		return nil, err
	}
	for _, p := range resource.ListAs[*corev1.Pod](c.registry, kinds.Pods, m.Namespace, nil) {
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && string(ref.UID) == m.Owner && !controller.PodTerminal(p) {
			of = append(of, rebalance.Replica{UID: string(p.UID), Node: p.Spec.NodeName, Ready: controller.PodReady(p), Ending: p.DeletionTimestamp != nil})
		}
	}
	return of, nil
}

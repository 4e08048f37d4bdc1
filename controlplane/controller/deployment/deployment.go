// Package deployment rolls every Deployment out: it owns a ReplicaSet for each of the deployment's templates and how many
// pods each of them is to have, step by step, as Kubernetes documents for apps/v1. It owns the deployment's status and
// revisions. It never touches pods: those are the ReplicaSets'.
//
// rollout.go decides, without side effects, what to do about one deployment; this file carries that out.
package deployment

import (
	"context"
	"errors"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/dependents"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "deployment-controller"

const workers = 4

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	recorder *event.Recorder
	queue    *controller.Queue[controller.Key]
	sets     *dependents.Dependents[*appsv1.ReplicaSet]
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder) *Controller {
	return &Controller{
		registry: registry, recorder: recorder,
		queue: controller.NewQueue[controller.Key]("deployments"),
		sets: dependents.New[*appsv1.ReplicaSet](registry, dependents.Owners{
			Kind: kinds.Deployments, Selector: func(obj resource.Object) labels.Selector { return selectorOf(obj.(*appsv1.Deployment)) },
		}, kinds.ReplicaSets, clock.RealClock{}),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.sets.Observe(ctx, &wg, c.queue.Add)
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Deployments, func(_, cur *appsv1.Deployment, _ int64) {
		if cur != nil {
			c.queue.Add(controller.KeyOf(cur))
		}
	})
	c.queue.Run(ctx, workers, c.sync)
	wg.Wait()
	return ctx.Err()
}

// podChanged wakes deployments that wait for old pods to end before they make new ones.
func (c *Controller) podChanged(old, cur *corev1.Pod, _ int64) {
	if old == nil || cur != nil && !(controller.PodTerminal(cur) && !controller.PodTerminal(old)) {
		return
	}
	ref := dependents.OwnerOf(old, kinds.ReplicaSets)
	if ref == nil {
		return
	}
	set, err := resource.Get[*appsv1.ReplicaSet](context.Background(), c.registry, kinds.ReplicaSets, old.Namespace, ref.Name)
	if err != nil {
		return // deleted too: its own event follows
	}
	if ref := dependents.OwnerOf(set, kinds.Deployments); ref != nil {
		c.queue.Add(controller.Key{Namespace: set.Namespace, Name: ref.Name})
	}
}

// selectorOf returns what a deployment selects; one that validation would refuse today selects nothing.
func selectorOf(d *appsv1.Deployment) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return labels.Nothing()
	}
	return selector
}

func (c *Controller) sync(ctx context.Context, key controller.Key) error {
	d, err := resource.Get[*appsv1.Deployment](ctx, c.registry, kinds.Deployments, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if selectorOf(d).String() == labels.Nothing().String() {
		return nil // it would own every set there is
	}
	sets, err := c.sets.Claim(ctx, d, selectorOf(d), nil)
	if err != nil {
		return err
	}
	p, err := decide(d.DeepCopy(), sets, c.podsOf)
	if err != nil {
		return err
	}
	workErr := c.carryOut(ctx, d, p)
	if err := c.writeStatus(ctx, d, p); err != nil {
		return errors.Join(workErr, err)
	}
	if p.after > 0 {
		c.queue.AddAfter(key, p.after)
	}
	return workErr
}

// podsOf returns the pods that a set still has, terminating ones included.
func (c *Controller) podsOf(set types.UID) []*corev1.Pod {
	return resource.ByIndex[*corev1.Pod](c.registry, kinds.Pods, kinds.PodsByController, string(set))
}

// writeStatus writes the status if it has changed. A deployment whose spec has changed meanwhile is decided about again.
func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, p *plan) error {
	_, err := c.registry.Modify(ctx, kinds.Deployments, "status", d.Namespace, d.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		now := current.(*appsv1.Deployment)
		if now.UID != d.UID || now.Generation != d.Generation {
			return current, nil
		}
		updated := now.DeepCopy()
		updated.ResourceVersion = ""
		updated.Status = p.status
		if p.revision != "" {
			deploymentutil.SetDeploymentRevision(updated, p.revision)
		}
		if equality.Semantic.DeepEqual(now.Status, updated.Status) && equality.Semantic.DeepEqual(now.Annotations, updated.Annotations) {
			return current, nil
		}
		return updated, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

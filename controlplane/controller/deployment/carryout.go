package deployment

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
)

// carryOut writes a plan's changes to ReplicaSets. Failures to create one are also reported in the plan's status.
func (c *Controller) carryOut(ctx context.Context, d *appsv1.Deployment, p *plan) error {
	var failures []error
	if p.create != nil {
		failures = append(failures, c.create(ctx, d, p))
	}
	for _, change := range p.updates {
		failures = append(failures, c.update(ctx, d, change))
	}
	for _, set := range p.remove {
		_, err := c.sets.DeleteUnchanged(ctx, set)
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, p *plan) error {
	name, replicas := p.create.Name, *p.create.Spec.Replicas
	_, err := c.sets.Create(ctx, p.create)
	switch {
	case err == nil:
		if replicas > 0 {
			c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", name, replicas)
		}
		p.progress(d, corev1.ConditionTrue, deploymentutil.NewReplicaSetReason, fmt.Sprintf("Created new replica set %q", name))
		return nil
	case apierrors.IsAlreadyExists(err):
		return c.collided(ctx, d, p, name, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", name, err)
	p.progress(d, corev1.ConditionFalse, deploymentutil.FailedRSCreateReason, message)
	c.recorder.Eventf(d, corev1.EventTypeWarning, deploymentutil.FailedRSCreateReason, "%s", message)
	return err
}

// collided distinguishes a set that was created before and is not in the cache yet from one of another template with the same
// hash: for the latter the deployment counts a collision, which changes the hash of the next attempt.
func (c *Controller) collided(ctx context.Context, d *appsv1.Deployment, p *plan, name string, err error) error {
	obj, getErr := c.registry.Get(ctx, kinds.ReplicaSets, d.Namespace, name, "")
	if getErr != nil {
		return errors.Join(err, getErr)
	}
	set := obj.(*appsv1.ReplicaSet)
	if metav1.IsControlledBy(set, d) && deploymentutil.EqualIgnoreHash(&d.Spec.Template, &set.Spec.Template) {
		c.sets.Record(set)
		c.queue.Add(controller.KeyOf(d))
		return nil
	}
	collisions := int32(1)
	if d.Status.CollisionCount != nil {
		collisions += *d.Status.CollisionCount
	}
	p.status.CollisionCount = &collisions
	return err
}

// update writes a set if it is still in the state that was decided about; otherwise the deployment is decided about again.
func (c *Controller) update(ctx context.Context, d *appsv1.Deployment, change update) error {
	before, after := change.before, *change.set.Spec.Replicas
	updated, err := c.sets.Update(ctx, change.set)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		c.queue.Add(controller.KeyOf(d))
		return nil
	case err != nil:
		return err
	}
	if before != after {
		way := "up"
		if after < before {
			way = "down"
		}
		c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, updated.Name, before, after)
	}
	return nil
}

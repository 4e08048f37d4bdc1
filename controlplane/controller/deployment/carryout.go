package deployment

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// carryOut writes what a plan says about ReplicaSets. Failures to make one are also put into the plan's status.
func (c *Controller) carryOut(ctx context.Context, d *appsv1.Deployment, p *plan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	var failures []error
	if p.create != nil {
		failures = append(failures, c.create(ctx, d, p))
	}
	for _, change := range p.updates {
		failures = append(failures, c.update(ctx, d, change))
	}
	for _, set := range p.remove {
		_, _, err := c.registry.Delete(ctx, kinds.ReplicaSets, set.Namespace, set.Name, &metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, p *plan) error {
	name, replicas := p.create.Name, *p.create.Spec.Replicas
	created, err := c.registry.Create(ctx, kinds.ReplicaSets, p.create, resource.CreateOptions{})
	switch {
	case err == nil:
		c.sets.Wrote(created.(*appsv1.ReplicaSet))
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

// collided tells a set that was made before and is not seen yet from one of another template with the same hash: for that
// one the deployment counts a collision, which changes the hash of the next attempt.
func (c *Controller) collided(ctx context.Context, d *appsv1.Deployment, p *plan, name string, err error) error {
	obj, getErr := c.registry.Get(ctx, kinds.ReplicaSets, d.Namespace, name, "")
	if getErr != nil {
		return errors.Join(err, getErr)
	}
	set := obj.(*appsv1.ReplicaSet)
	if metav1.IsControlledBy(set, d) && deploymentutil.EqualIgnoreHash(&d.Spec.Template, &set.Spec.Template) {
		c.sets.Wrote(set)
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

// update writes a set that is still the one that was decided about; any other is decided about again.
func (c *Controller) update(ctx context.Context, d *appsv1.Deployment, change update) error {
	before, after := change.before, *change.set.Spec.Replicas
	updated, err := c.registry.Update(ctx, kinds.ReplicaSets, "", change.set, resource.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		c.queue.Add(controller.KeyOf(d))
		return nil
	case err != nil:
		return err
	}
	c.sets.Wrote(updated.(*appsv1.ReplicaSet))
	if before != after {
		way := "up"
		if after < before {
			way = "down"
		}
		c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, updated.GetName(), before, after)
	}
	return nil
}

// claim returns the sets that belong to a deployment: those it controls and that match its selector, and matching ones that
// nobody controls, which it adopts. Those it controls that no longer match are released.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector := selectorOf(d)
	var claimed []*appsv1.ReplicaSet
	var failures []error
	for _, set := range c.sets.Group(controller.Key{Namespace: d.Namespace, Name: string(d.UID)}) {
		if selector.Matches(labels.Set(set.Labels)) {
			claimed = append(claimed, set)
		} else if d.DeletionTimestamp == nil {
			_, err := c.changeOwners(ctx, set, func(s *appsv1.ReplicaSet) {
				var kept []metav1.OwnerReference
				for _, ref := range s.OwnerReferences {
					if ref.UID != d.UID {
						kept = append(kept, ref)
					}
				}
				s.OwnerReferences = kept
			})
			failures = append(failures, err)
		}
	}
	if d.DeletionTimestamp != nil {
		return claimed, errors.Join(failures...)
	}
	for _, set := range c.sets.Group(controller.Key{Namespace: d.Namespace}) {
		if set.DeletionTimestamp != nil || !selector.Matches(labels.Set(set.Labels)) {
			continue
		}
		adopted, err := c.adopt(ctx, d, set)
		if failures = append(failures, err); adopted != nil {
			claimed = append(claimed, adopted)
		}
	}
	return claimed, errors.Join(failures...)
}

// adopt asks the store about the deployment, not the cache: one that has been deleted meanwhile must not take sets that its
// deletion has just made orphans.
func (c *Controller) adopt(ctx context.Context, d *appsv1.Deployment, set *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	fresh, err := c.registry.Get(ctx, kinds.Deployments, d.Namespace, d.Name, "")
	if err != nil {
		return nil, err
	}
	if fresh.GetUID() != d.UID || fresh.GetDeletionTimestamp() != nil {
		return nil, fmt.Errorf("deployment %s/%s is being deleted or was replaced", d.Namespace, d.Name)
	}
	return c.changeOwners(ctx, set, func(s *appsv1.ReplicaSet) {
		s.OwnerReferences = append(s.OwnerReferences, *metav1.NewControllerRef(d, kinds.Deployments.GVK))
	})
}

// changeOwners returns nil without an error if the set is no longer what it was: then its next event decides.
func (c *Controller) changeOwners(ctx context.Context, set *appsv1.ReplicaSet, change func(*appsv1.ReplicaSet)) (*appsv1.ReplicaSet, error) {
	changed := set.DeepCopy()
	change(changed)
	updated, err := c.registry.Update(ctx, kinds.ReplicaSets, "", changed, resource.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.sets.Wrote(updated.(*appsv1.ReplicaSet))
	return updated.(*appsv1.ReplicaSet), nil
}

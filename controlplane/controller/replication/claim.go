package replication

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// errPodChanged stops an adoption or a release whose ground is gone.
var errPodChanged = errors.New("pod changed")

// claim returns the active pods that belong to set: its own as long as they
// match, and matching orphans, which it adopts. Its own that no longer match
// are released.
func (c *Controller) claim(ctx context.Context, set *podSet) ([]*corev1.Pod, error) {
	owned, orphans := c.pods.of(set)
	var claimed []*corev1.Pod
	var failures []error
	for _, pod := range owned {
		switch {
		case !controller.PodActive(pod):
		case set.selector.Matches(labels.Set(pod.Labels)):
			claimed = append(claimed, pod)
		case set.DeletionTimestamp == nil:
			failures = append(failures, c.release(ctx, set, pod))
		}
	}
	if set.DeletionTimestamp != nil {
		return claimed, errors.Join(failures...)
	}
	alive := false
	for _, pod := range orphans {
		if !controller.PodActive(pod) || !set.selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if !alive {
			if err := c.mayAdopt(ctx, set); err != nil {
				return nil, err
			}
			alive = true
		}
		adopted, err := c.adopt(ctx, set, pod)
		if err != nil {
			failures = append(failures, err)
		} else if adopted != nil {
			claimed = append(claimed, adopted)
		}
	}
	return claimed, errors.Join(failures...)
}

// mayAdopt asks the store, not the cache: a controller that has been deleted
// meanwhile must not take pods that its deletion has just made orphans.
func (c *Controller) mayAdopt(ctx context.Context, set *podSet) error {
	fresh, err := c.registry.Get(ctx, c.flavour.kind, set.Namespace, set.Name, "")
	if err != nil {
		return err
	}
	if fresh.GetUID() != set.UID {
		return fmt.Errorf("%s was replaced by another of the same name", set.describe())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s is being deleted", set.describe())
	}
	return nil
}

func (c *Controller) adopt(ctx context.Context, set *podSet, pod *corev1.Pod) (*corev1.Pod, error) {
	return c.changeOwners(ctx, pod, func(p *corev1.Pod) error {
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
			if ref.UID == set.UID {
				return nil
			}
			return errPodChanged
		}
		if p.DeletionTimestamp != nil || !set.selector.Matches(labels.Set(p.Labels)) {
			return errPodChanged
		}
		p.OwnerReferences = append(p.OwnerReferences, *metav1.NewControllerRef(set, set.kind))
		return nil
	})
}

func (c *Controller) release(ctx context.Context, set *podSet, pod *corev1.Pod) error {
	_, err := c.changeOwners(ctx, pod, func(p *corev1.Pod) error {
		if set.selector.Matches(labels.Set(p.Labels)) {
			return errPodChanged
		}
		var kept []metav1.OwnerReference
		for _, ref := range p.OwnerReferences {
			if ref.UID != set.UID {
				kept = append(kept, ref)
			}
		}
		p.OwnerReferences = kept
		return nil
	})
	return err
}

// changeOwners applies change to the pod as it is now. It returns nil without an
// error if the pod is gone or is no longer what the change was meant for.
func (c *Controller) changeOwners(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod) error) (*corev1.Pod, error) {
	obj, err := c.registry.Modify(ctx, kinds.Pods, "", pod.Namespace, pod.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != pod.UID {
			return nil, errPodChanged
		}
		p := current.(*corev1.Pod).DeepCopy()
		p.ResourceVersion = ""
		return p, change(p)
	})
	if errors.Is(err, errPodChanged) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.pods.wrote(obj.(*corev1.Pod))
	return obj.(*corev1.Pod), nil
}

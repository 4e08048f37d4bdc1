package disruption

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skep-io/skep/controlplane/resource"
)

// expected is how many pods there should be, how many of them must be healthy, and whether there are pods that belong to no controller: where
// the budget is relative they are not counted.
func (c *Controller) expected(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, unmanaged bool, err error) {
	least, most := budget.Spec.MinAvailable, budget.Spec.MaxUnavailable
	if most == nil && least != nil && least.Type == intstr.Int {
		return int32(len(pods)), least.IntVal, false, nil
	}
	if most == nil && least == nil {
		return 0, 0, false, nil
	}
	if expected, unmanaged, err = c.scale(pods); err != nil {
		return 0, 0, false, err
	}
	if most == nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
		return expected, int32(n), unmanaged, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(most, int(expected), true)
	return expected, max(expected-int32(n), 0), unmanaged, err
}

// scale is the sum of the replicas that the pods' controllers want.
func (c *Controller) scale(pods []*corev1.Pod) (sum int32, unmanaged bool, err error) {
	known := map[types.UID]bool{} // owners that were looked up
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			unmanaged = true
			continue
		}
		if known[owner.UID] {
			continue
		}
		known[owner.UID] = true
		top, k := c.top(pod.Namespace, owner)
		if top == nil {
			return 0, unmanaged, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if !counted[top.GetUID()] {
			counted[top.GetUID()] = true
			sum += k.Scale.Replicas(top)
		}
	}
	return sum, unmanaged, nil
}

// top follows controllers up to the one that says how many pods there are: the Deployment of a ReplicaSet, say. nil: none can be found.
func (c *Controller) top(namespace string, owner *metav1.OwnerReference) (top resource.Object, of *resource.Kind) {
	for owner != nil {
		k := c.kind(owner)
		if k == nil || k.Scale == nil {
			return top, of
		}
		current, ok := c.registry.Cache(k).Get(k.Key(namespace, owner.Name))
		if !ok || current.Value().GetUID() != owner.UID {
			return top, of
		}
		top, of = current.Value(), k
		owner = metav1.GetControllerOfNoCopy(top)
	}
	return top, of
}

func (c *Controller) kind(owner *metav1.OwnerReference) *resource.Kind {
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return nil
	}
	for _, k := range c.registry.Kinds() {
		if k.GVK == gv.WithKind(owner.Kind) {
			return k
		}
	}
	return nil
}

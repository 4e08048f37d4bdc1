package kinds

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/resource"
)

// Binding puts a pod on a node. UID may be empty.
type Binding struct {
	Namespace, Name string
	UID             string
	Node            string
}

// Bind puts pods on nodes, as many as a transaction takes at a time. It returns
// an error for each binding that was not made; one does not wait for another.
func Bind(ctx context.Context, r *resource.Registry, bindings []Binding) []error {
	changes := make([]resource.Change, len(bindings))
	for i, b := range bindings {
		changes[i] = resource.Change{Namespace: b.Namespace, Name: b.Name, Part: "binding", Apply: b.apply}
	}
	return r.ModifyBatch(ctx, Pods, changes)
}

// apply makes the pod as it is once it is on its node.
func (b Binding) apply(current resource.Object) (resource.Object, error) {
	old, ok := current.(*corev1.Pod)
	switch {
	case !ok:
		return nil, apierrors.NewInternalError(fmt.Errorf("pod %s/%s is a %T", b.Namespace, b.Name, current))
	case b.UID != "" && string(old.UID) != b.UID:
		return nil, b.conflict(fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, old.UID))
	case old.DeletionTimestamp != nil:
		return nil, b.conflict(fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", b.Name))
	case old.Spec.NodeName != "":
		return nil, b.conflict(fmt.Errorf("pod %v is already assigned to node %q", b.Name, old.Spec.NodeName))
	case len(old.Spec.SchedulingGates) > 0:
		return nil, b.conflict(fmt.Errorf("pod %v has non-empty .spec.schedulingGates", b.Name))
	}
	// Only what changes is copied.
	pod := *old
	pod.Spec.NodeName = b.Node
	pod.Status.Conditions = scheduled(old.Status.Conditions)
	pod.Status.NominatedNodeName = "" // it has served its purpose
	return &pod, nil
}

// scheduled returns the conditions with PodScheduled true.
func scheduled(old []corev1.PodCondition) []corev1.PodCondition {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	conditions := slices.Clone(old)
	for i := range conditions {
		if c := &conditions[i]; c.Type == corev1.PodScheduled {
			if c.Status != corev1.ConditionTrue {
				*c = corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: c.ObservedGeneration}
			}
			return conditions
		}
	}
	return append(conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now})
}

func (b Binding) conflict(err error) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, b.Name, err)
}

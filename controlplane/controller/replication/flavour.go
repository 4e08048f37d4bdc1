package replication

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// flavour is a kind whose objects keep sets of pods.
type flavour struct {
	kind *resource.Kind
	// read returns an object as a ReplicaSet, which shares memory with it.
	read func(resource.Object) *appsv1.ReplicaSet
	// setStatus changes the status of an object that is the caller's own.
	setStatus func(resource.Object, appsv1.ReplicaSetStatus)
}

var replicaSets = flavour{
	kind:      kinds.ReplicaSets,
	read:      func(obj resource.Object) *appsv1.ReplicaSet { copied := *obj.(*appsv1.ReplicaSet); return &copied },
	setStatus: func(obj resource.Object, status appsv1.ReplicaSetStatus) { obj.(*appsv1.ReplicaSet).Status = status },
}

var replicationControllers = flavour{
	kind: kinds.ReplicationControllers,
	read: func(obj resource.Object) *appsv1.ReplicaSet {
		rc := obj.(*corev1.ReplicationController)
		set := &appsv1.ReplicaSet{
			ObjectMeta: rc.ObjectMeta,
			Spec: appsv1.ReplicaSetSpec{
				Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
				Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
			},
			Status: appsv1.ReplicaSetStatus{
				Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
				AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
			},
		}
		if rc.Spec.Template != nil {
			set.Spec.Template = *rc.Spec.Template
		}
		for _, c := range rc.Status.Conditions {
			set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
				Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
				LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			})
		}
		return set
	},
	setStatus: func(obj resource.Object, status appsv1.ReplicaSetStatus) {
		own := corev1.ReplicationControllerStatus{
			Replicas: status.Replicas, FullyLabeledReplicas: status.FullyLabeledReplicas, ReadyReplicas: status.ReadyReplicas,
			AvailableReplicas: status.AvailableReplicas, ObservedGeneration: status.ObservedGeneration,
		}
		for _, c := range status.Conditions {
			own.Conditions = append(own.Conditions, corev1.ReplicationControllerCondition{
				Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
				LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			})
		}
		obj.(*corev1.ReplicationController).Status = own
	},
}

// podSet is an object of either kind, as the loop sees it.
type podSet struct {
	*appsv1.ReplicaSet
	kind     schema.GroupVersionKind
	selector labels.Selector
}

func (f *flavour) podSet(obj resource.Object) *podSet {
	set := &podSet{ReplicaSet: f.read(obj), kind: f.kind.GVK, selector: labels.Nothing()}
	set.SetGroupVersionKind(f.kind.GVK) // by which events name it
	if s := set.Spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0 {
		// It has been validated. One that cannot be read selects nothing.
		if selector, err := metav1.LabelSelectorAsSelector(s); err == nil {
			set.selector = selector
		}
	}
	return set
}

func (s *podSet) wanted() int {
	if s.Spec.Replicas == nil {
		return 1
	}
	return int(*s.Spec.Replicas)
}

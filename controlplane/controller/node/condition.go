package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// What the conditions of a silent node say, in Kubernetes' words.
const (
	reasonUnknown  = "NodeStatusUnknown"
	messageUnknown = "Kubelet stopped posting node status."
	reasonNever    = "NodeStatusNeverUpdated"
	messageNever   = "Kubelet never posted node status."
)

// monitored are the conditions that nobody knows about a silent node.
var monitored = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// markUnknown sets the conditions of a silent node.
func (c *Controller) markUnknown(ctx context.Context, node *corev1.Node) error {
	if cond := controller.NodeCondition(node, corev1.NodeReady); cond != nil && cond.Status == corev1.ConditionUnknown {
		return nil
	}
	changed := false
	_, err := c.registry.Modify(ctx, resource.Nodes, "status", "", node.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		changed = false
		n := current.(*corev1.Node)
		// It may have come back between the look and this write.
		if n.UID != node.UID || !c.health.isSilent(n.Name) {
			return n, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		now := metav1.NewTime(c.clock.Now())
		for _, kind := range monitored {
			changed = setUnknown(n, kind, now) || changed
		}
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && changed {
		c.recorder.EventfRef(referenceTo(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return err
}

func setUnknown(n *corev1.Node, kind corev1.NodeConditionType, now metav1.Time) bool {
	cond := controller.NodeCondition(n, kind)
	if cond == nil {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionUnknown, Reason: reasonNever, Message: messageNever,
			LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
		})
		return true
	}
	if cond.Status == corev1.ConditionUnknown {
		return false
	}
	cond.Status, cond.Reason, cond.Message, cond.LastTransitionTime = corev1.ConditionUnknown, reasonUnknown, messageUnknown, now
	return true
}

// referenceTo is how events name nodes: their UID is the name, as kubectl expects it.
func referenceTo(node *corev1.Node) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}

// taintsOf are the taints that a node's Ready condition asks for.
func taintsOf(node *corev1.Node) (key string) {
	cond := controller.NodeCondition(node, corev1.NodeReady)
	switch {
	case cond == nil, cond.Status == corev1.ConditionFalse:
		return corev1.TaintNodeNotReady
	case cond.Status == corev1.ConditionUnknown:
		return corev1.TaintNodeUnreachable
	}
	return ""
}

// reconcileTaints sets the taints unreachable and not-ready as the Ready
// condition asks, and returns the node with them.
func (c *Controller) reconcileTaints(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	if !taint(node.DeepCopy(), metav1.Time{}) {
		return node, nil
	}
	obj, err := c.registry.Modify(ctx, resource.Nodes, "", "", node.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Node).DeepCopy()
		n.ResourceVersion = ""
		if !taint(n, metav1.NewTime(c.clock.Now())) {
			return current, nil
		}
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return node, nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), nil
}

// taint changes a node's taints to what its Ready condition asks for, and says whether that was a change.
func taint(node *corev1.Node, now metav1.Time) bool {
	key := taintsOf(node)
	before := node.Spec.Taints
	want := map[corev1.TaintEffect]bool{}
	if key != "" {
		want[corev1.TaintEffectNoSchedule], want[corev1.TaintEffectNoExecute] = true, true
	}
	var after []corev1.Taint
	for _, t := range before {
		switch {
		case t.Key != corev1.TaintNodeNotReady && t.Key != corev1.TaintNodeUnreachable:
			after = append(after, t)
		case t.Key == key && want[t.Effect]:
			after = append(after, t)
			delete(want, t.Effect)
		}
	}
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
		if want[effect] {
			after = append(after, corev1.Taint{Key: key, Effect: effect, TimeAdded: &now})
		}
	}
	node.Spec.Taints = after
	return !equality.Semantic.DeepEqual(before, after)
}

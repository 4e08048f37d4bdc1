package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// The conditions of a silent node, in Kubernetes' words.
const (
	reasonUnknown  = "NodeStatusUnknown"
	messageUnknown = "Kubelet stopped posting node status."
	reasonNever    = "NodeStatusNeverUpdated"
	messageNever   = "Kubelet never posted node status."
)

// monitored are the conditions that are unknown for a silent node.
var monitored = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// markUnknown sets the conditions of a silent node.
func (c *Controller) markUnknown(ctx context.Context, node *corev1.Node) error {
	if cond := controller.NodeCondition(node, corev1.NodeReady); cond != nil && cond.Status == corev1.ConditionUnknown {
		return nil
	}
	changed := false
	_, err := c.registry.Modify(ctx, kinds.Nodes, "status", "", node.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		changed = false
		n := current.(*corev1.Node)
		// It may have returned between the check and this write.
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

package node

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// conditionTaints are the taints that conditions ask for, as Kubernetes' node lifecycle controller has them. Only those of Ready evict
// pods; the others keep new pods away. A missing condition counts as the status "".
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
	effects   []corev1.TaintEffect
}{
	{corev1.NodeReady, "", corev1.TaintNodeNotReady, drivesOut},
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady, drivesOut},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable, drivesOut},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure, keepsAway},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure, keepsAway},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure, keepsAway},
}

var (
	keepsAway = []corev1.TaintEffect{corev1.TaintEffectNoSchedule}
	drivesOut = []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}
)

// taintsOf are the taints that a node's conditions ask for.
func taintsOf(node *corev1.Node) (want []corev1.Taint) {
	for _, t := range conditionTaints {
		status := corev1.ConditionStatus("")
		if cond := controller.NodeCondition(node, t.condition); cond != nil {
			status = cond.Status
		}
		if status != t.status {
			continue
		}
		for _, effect := range t.effects {
			want = append(want, corev1.Taint{Key: t.key, Effect: effect})
		}
	}
	return want
}

// isConditionTaint says whether the taint is this loop's to set and to remove.
func isConditionTaint(t *corev1.Taint) bool {
	for _, c := range conditionTaints {
		if t.Key == c.key && slices.Contains(c.effects, t.Effect) {
			return true
		}
	}
	return false
}

// reconcileTaints sets the taints that the node's conditions ask for, and returns the node with them.
func (c *Controller) reconcileTaints(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	if !taint(node.DeepCopy(), metav1.Time{}) {
		return node, nil
	}
	obj, err := c.registry.Modify(ctx, kinds.Nodes, "", "", node.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
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

// taint sets a node's taints to what its conditions ask for, and says whether they changed.
func taint(node *corev1.Node, now metav1.Time) bool {
	before, want := node.Spec.Taints, taintsOf(node)
	var after []corev1.Taint
	for i := range before {
		t := &before[i]
		wanted := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.MatchTaint(t) })
		switch {
		case wanted >= 0:
			want = slices.Delete(want, wanted, wanted+1)
			after = append(after, *t)
		case !isConditionTaint(t):
			after = append(after, *t)
		}
	}
	for _, t := range want {
		t.TimeAdded = &now
		after = append(after, t)
	}
	node.Spec.Taints = after
	return !equality.Semantic.DeepEqual(before, after)
}

package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// SetPressure sets what the node is short of, which its status shows at once.
func (n *Node) SetPressure(conditions []corev1.NodeConditionType) {
	n.mu.Lock()
	same := slices.Equal(n.pressure, conditions)
	n.pressure = conditions
	n.mu.Unlock()
	if !same {
		n.wakeUp()
	}
}

// Pressure is what the node is short of.
func (n *Node) Pressure() []corev1.NodeConditionType {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pressure
}

// pressureConditions returns conditions with kubelet's reasons and messages, which people search
// for.
func pressureConditions(low []corev1.NodeConditionType) (list []corev1.NodeCondition) {
	for _, c := range []struct {
		kind                             corev1.NodeConditionType
		reason, message, without, enough string
	}{
		{corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		{corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		{corev1.NodePIDPressure, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
	} {
		condition := corev1.NodeCondition{Type: c.kind, Status: corev1.ConditionFalse, Reason: c.without, Message: c.enough}
		if slices.Contains(low, c.kind) {
			condition.Status, condition.Reason, condition.Message = corev1.ConditionTrue, c.reason, c.message
		}
		list = append(list, condition)
	}
	return list
}

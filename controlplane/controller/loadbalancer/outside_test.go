package loadbalancer_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// setOutside sets the condition by which an agent reports on its uplinks.
func setOutside(t *testing.T, r *resource.Registry, node string, status corev1.ConditionStatus) {
	t.Helper()
	controlplanetest.Modify(t, r, kinds.Nodes, "status", "", node, func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: "skep.io/ServesOutside", Status: status})
	})
}

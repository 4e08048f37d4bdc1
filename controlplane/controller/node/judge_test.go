package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/witness"
)

// accuse has other nodes say that they cannot reach these, at the time of the test's clock.
func (h *hosts) accuse(names ...string) {
	h.t.Helper()
	for _, name := range names {
		controlplanetest.Modify(h.t, h.r, kinds.Nodes, "status", "", name, func(n *corev1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: witness.Reachable, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.NewTime(h.clock.Now()), Message: "cannot be reached by a, b",
			})
		})
		h.await(func() bool {
			accused, _ := h.c.health.isAccused(name, h.clock.Now())
			return accused
		})
	}
}

func (h *hosts) isSilent(name string) bool {
	h.t.Helper()
	n, err := resource.Get[*corev1.Node](h.t.Context(), h.r, kinds.Nodes, "", name)
	if err != nil {
		h.t.Fatal(err)
	}
	return unknown(n) || h.c.health.isSilent(name)
}

func TestWitnessedSilence(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3", "node4")
	h.live(12, "node1", "node2", "node3", "node4")
	h.accuse("node4")
	h.live(1, "node1", "node2", "node3")
	if h.isSilent("node4") {
		t.Fatal("node4 is given up before its lease was due")
	}
	h.live(1, "node1", "node2", "node3")
	h.awaitNode("node4", func(n *corev1.Node) bool { return unknown(n) && taints(n, corev1.TaintNodeUnreachable) == 2 })
	h.awaitPod("web-node4", terminating)
	h.live(1, "node1", "node2", "node3", "node4")
	if h.c.health.isSilent("node4") {
		t.Error("node4 renewed its lease and is still taken for silent")
	}
}

// What others say evicts nothing from a node that renews its lease, or whose host answers skepd's own: the network between the others may be
// cut, or its agent have ended.
func TestWitnessesAloneEvictNothing(t *testing.T) {
	t.Run("lease renewed", func(t *testing.T) {
		h := startHosts(t, "node1", "node2", "node3", "node4")
		h.live(12, "node1", "node2", "node3", "node4")
		h.accuse("node4")
		h.live(30, "node1", "node2", "node3", "node4")
		if h.isSilent("node4") || terminating(h.pod("web-node4")) {
			t.Error("node4 was given up")
		}
	})
	t.Run("host answers", func(t *testing.T) {
		h := startHosts(t, "node1", "node2", "node3", "node4")
		h.answers.Store(true)
		h.live(12, "node1", "node2", "node3", "node4")
		h.accuse("node4")
		h.live(5, "node1", "node2", "node3")
		if h.isSilent("node4") {
			t.Error("node4 was given up within the grace, though its host answers")
		}
		h.live(2, "node1", "node2", "node3")
		h.awaitNode("node4", unknown)
	})
}

// When a third of a zone seems gone, only leases decide.
func TestTooManyWitnessed(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3", "node4", "node5")
	h.live(12, "node1", "node2", "node3", "node4", "node5")
	h.accuse("node4", "node5")
	h.live(4, "node1", "node2", "node3")
	if h.isSilent("node4") || h.isSilent("node5") {
		t.Fatal("two of five nodes are given up early")
	}
	h.await(func() bool {
		h.c.heldMu.Lock()
		defer h.c.heldMu.Unlock()
		return h.c.zones == "nodes without a zone: 2"
	})
	h.live(3, "node1", "node2", "node3")
	h.awaitNode("node4", unknown)
	h.awaitNode("node5", unknown)
}

func TestEvidenceExpires(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3")
	h.live(12, "node1", "node2", "node3")
	h.accuse("node3")
	h.live(int(witness.Validity/time.Second)+2, "node1", "node2", "node3")
	h.awaitNode("node3", func(n *corev1.Node) bool {
		c := controller.NodeCondition(n, witness.Reachable)
		return c.Status == corev1.ConditionUnknown && c.Reason == witness.ReasonExpired
	})
	if h.isSilent("node3") {
		t.Error("node3 was given up")
	}
}

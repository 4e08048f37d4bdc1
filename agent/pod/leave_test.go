package pod_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// A node that was removed from the cluster ends its pods as if each had been deleted: with a signal and the time to end.
func TestLeaveEndsPodsInOrder(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("polite", func(s *corev1.PodSpec) {
		grace := int64(30)
		s.TerminationGracePeriodSeconds = &grace
		s.Containers[0] = container("main", "trap 'echo bye; exit 0' TERM; while true; do sleep 0.05; done")
	}))
	c.create(newPod("other", nil))
	c.await("polite", "ready", isReady)
	c.await("other", "ready", isReady)
	running, _, err := c.pods.Find("default", "polite", "")
	if err != nil {
		t.Fatal(err)
	}
	c.pods.Leave()
	runtimetest.Eventually(t, "the end of all pods", func() bool {
		return len(c.node.PodUIDs()) == 0 && len(c.network.Attachments()) == 0
	})
	if text := c.node.Logs.Text(running.ID); text != "bye\n" {
		t.Errorf("the container said %q at its end, want that it was asked to end", text)
	}
}

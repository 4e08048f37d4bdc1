package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// A pod that uses up the processes of its node is evicted and replaced on another, because of the first node's taint; the taint
// is removed with the pressure, and the pod, the node and the events say why.
func TestEvictedPodIsReplacedElsewhere(t *testing.T) {
	all := int64(1) << 40
	for _, file := range []string{"pid_max", "threads-max"} {
		data, err := os.ReadFile("/proc/sys/kernel/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		if _, err := fmt.Sscan(string(data), &n); err != nil {
			t.Fatal(err)
		}
		all = min(all, n)
	}
	s := newSite(t, "ev", cluster.Options{Nodes: 2, NoDNS: true, NodeArgs: map[string][]string{"node1": {
		"--eviction-hard", fmt.Sprintf("pid.available<%d", all-500), "--eviction-pressure-transition-period", "10s",
	}}})
	s.Skep("image", "load", filepath.Join(bin, "images", "shell.tar"))
	s.Skep("cordon", "node2")
	s.SkepIn(`
apiVersion: v1
kind: ReplicationController
metadata: {name: bomb}
spec:
  replicas: 1
  selector: {app: bomb}
  template:
    metadata: {labels: {app: bomb}}
    spec:
      terminationGracePeriodSeconds: 300
      containers:
      - {name: c, image: "skep/shell:dev", command: [sh, -c, "sleep 5; i=0; while [ $i -lt 600 ]; do sleep 100000 & i=$((i+1)); done; wait"]}
`, "create", "-f", "-")
	pods := func() (all []corev1.Pod) {
		list, err := s.api.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=bomb"})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * patience); !is(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s\n%s", what, s.Skep("get", "pods", "-o", "wide"), s.Skep("describe", "node", "node1"))
			}
		}
	}
	tainted := func() bool {
		n, err := s.api.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == corev1.TaintNodePIDPressure && t.Effect == corev1.TaintEffectNoSchedule
		})
	}
	until("the pod's place", func() bool { p := pods(); return len(p) == 1 && p[0].Spec.NodeName == "node1" })
	bomb := pods()[0].Name
	s.Skep("uncordon", "node2")
	until("the taint of the node", tainted)
	until("the replacement on node2", func() bool {
		return slices.ContainsFunc(pods(), func(p corev1.Pod) bool { return p.Spec.NodeName == "node2" && p.Status.Phase == corev1.PodRunning })
	})
	evicted, err := s.api.CoreV1().Pods("default").Get(t.Context(), bomb, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if st := evicted.Status; st.Phase != corev1.PodFailed || st.Reason != "Evicted" || !strings.HasPrefix(st.Message, "The node was low on resource: pids. Threshold quantity: ") {
		t.Errorf("the pod: %s %s: %s", st.Phase, st.Reason, st.Message)
	}
	s.awaitCondition("node1", corev1.NodePIDPressure, corev1.ConditionFalse)
	until("the end of the taint", func() bool { return !tainted() })
	until("the events", func() bool {
		events := s.Skep("get", "events", "-A")
		return strings.Contains(events, "Evicted") && strings.Contains(events, "Attempting to reclaim pids") &&
			strings.Contains(events, "NodeHasInsufficientPID") && strings.Contains(events, "NodeHasSufficientPID")
	})
}

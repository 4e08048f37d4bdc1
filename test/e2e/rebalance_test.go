package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/test/clustertest"
)

// All replicas are on one host while two others are free: two of them move while clients connect, no connection fails, and then nothing moves.
func TestRebalance(t *testing.T) {
	s := newSpace(t)
	file, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", "echo.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rc corev1.ReplicationController
	for _, document := range strings.Split(string(file), "\n---\n") {
		if strings.Contains(document, "kind: ReplicationController") {
			if err := yaml.Unmarshal([]byte(document), &rc); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 3 { // the controller takes over pods that its selector selects
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "echo-", Labels: rc.Spec.Template.Labels}, Spec: *rc.Spec.Template.Spec.DeepCopy()}
		pod.Spec.NodeName = "node1"
		if _, err := client.CoreV1().Pods(s.Name).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.Await("pods on one node", clustertest.AllReady(3))
	s.echoAndClient()
	s.untilAsked(3)

	s.WantIn(s.Skep("rebalance", "--dry-run"), s.Name+"/replicationcontroller/echo", "3 of 3 replicas are", "2 would move.")
	ended := s.connecting()
	s.WantIn(s.Skep("rebalance"), "moved from "+"node1", "2 moved; nothing else would be spread better.")
	if result := ended(); !strings.Contains(result, ", 0 failed") || strings.Contains(result, "done: 0 connections") {
		t.Errorf("connections from the client's pod:\n%s", result)
	}
	on := map[string]int{}
	for _, pod := range s.Await("replicas everywhere", clustertest.AllReady(4)) {
		if pod.Name != "client" {
			on[pod.Spec.NodeName]++
		}
	}
	if len(on) != 3 {
		t.Errorf("replicas are on the nodes as %v, want one on each", on)
	}
	s.WantIn(s.Skep("rebalance"), "0 moved; nothing else would be spread better.")
	s.untilAsked(3)
}

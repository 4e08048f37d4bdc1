package e2e

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/test/clustertest"
)

// Deleting a Node object removes the host from the cluster: its pods end, and it does not come back by itself. Started
// again with a valid join token, it joins anew.
func TestNodeObjectDeleted(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.hold()
	s.Await("the pods", clustertest.AllReady(5))
	victim := s.podNamed("hold").Spec.NodeName
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	host, err := local.Node(victim)
	if err != nil {
		t.Fatal(err)
	}
	nodes := client.CoreV1().Nodes()
	old, err := nodes.Get(ctx, victim, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := nodes.Delete(ctx, victim, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Await("the end of the pod on the removed node", func(pods []corev1.Pod) bool {
		return !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Name == "hold" })
	})
	if _, err := nodes.Get(ctx, victim, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%s is a node again without having joined (%v)", victim, err)
	}
	if err := host.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := host.Start(ctx); err != nil {
		t.Fatal(err)
	}
	events, err := nodes.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + victim})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if ok && node.UID != old.UID && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return
		}
	}
	t.Fatalf("%s did not join again", victim)
}

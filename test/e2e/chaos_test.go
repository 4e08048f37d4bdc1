package e2e

import (
	"context"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Node object that somebody deletes while its host lives comes back at once,
// with the same pod range, and its pods never notice.
func TestNodeObjectDeleted(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.hold()
	pods := s.await("the pods", allReady(5))
	victim := s.podNamed("hold").Spec.NodeName
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nodes := client.CoreV1().Nodes()
	old, err := nodes.Get(ctx, victim, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := nodes.Delete(ctx, victim, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	events, err := nodes.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + victim, ResourceVersion: old.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	var again *corev1.Node
	for event := range events.ResultChan() {
		if node, ok := event.Object.(*corev1.Node); ok && node.UID != old.UID {
			again = node
			break
		}
	}
	if again == nil {
		t.Fatalf("%s did not register again within %s", victim, patience)
	}
	if again.Spec.PodCIDR != old.Spec.PodCIDR {
		t.Errorf("%s has pod range %s now, had %s", victim, again.Spec.PodCIDR, old.Spec.PodCIDR)
	}
	isReady := false
	for _, condition := range again.Status.Conditions {
		isReady = isReady || condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	}
	if !isReady {
		t.Errorf("%s is registered without being ready, so that its pods are evicted: %+v", victim, again.Status.Conditions)
	}
	// The old lease goes with the old object; a new one belongs to the new.
	leases, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + victim, ResourceVersion: again.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Stop()
	renewed := false
	for event := range leases.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if ok && len(lease.OwnerReferences) == 1 && lease.OwnerReferences[0].UID == again.UID {
			renewed = true
			break
		}
	}
	if !renewed {
		t.Fatalf("%s has no lease of its new object within %s", victim, patience)
	}
	s.stillHeld()
	for _, pod := range pods {
		if now := s.podNamed(pod.Name); now.UID != pod.UID || now.DeletionTimestamp != nil {
			t.Errorf("pod %s was replaced", pod.Name)
		}
	}
	s.wantUntouched("client", "hold")
}

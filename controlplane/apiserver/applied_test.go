package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// reports has a node's lease say which revision the node's maps have.
func reports(t *testing.T, node, revision string) {
	t.Helper()
	leases := shared.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node, Annotations: map[string]string{servicespec.AppliedAnnotation: revision}}}
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = leases.Delete(t.Context(), node, metav1.DeleteOptions{}) })
}

func TestApplied(t *testing.T) {
	for _, name := range []string{"applied-a", "applied-b", "applied-silent", "applied-old"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == "applied-silent" {
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		}
		created, err := shared.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { deleteNode(t, name) })
		if created.Status = node.Status; len(node.Status.Conditions) > 0 {
			if _, err := shared.client.CoreV1().Nodes().UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	reports(t, "applied-a", "900")
	reports(t, "applied-b", "1000")
	reports(t, "applied-silent", "1") // does not report any more
	// applied-old is of an agent that reports no revision.
	client, _ := shared.node(t, "applied-a")
	ask := func(config *rest.Config, revision, wait string) (int, []string) {
		t.Helper()
		response, body := shared.raw(t, config, http.MethodGet, fmt.Sprintf("%s?revision=%s&wait=%s", skepv1.PathApplied, revision, wait), nil, "")
		var answer skepv1.Applied
		if response.StatusCode == http.StatusOK {
			if err := json.Unmarshal(body, &answer); err != nil {
				t.Fatal(err)
			}
		}
		return response.StatusCode, answer.Pending
	}
	if code, pending := ask(client, "900", "0s"); code != http.StatusOK || len(pending) > 0 {
		t.Errorf("revision 900: %d, pending %v", code, pending)
	}
	if code, pending := ask(client, "1000", "50ms"); code != http.StatusOK || !slices.Equal(pending, []string{"applied-a"}) {
		t.Errorf("revision 1000: %d, pending %v, want applied-a", code, pending)
	}
	time.AfterFunc(50*time.Millisecond, func() { reports(t, "applied-a", "1000") })
	if code, pending := ask(client, "1000", "1m"); code != http.StatusOK || len(pending) > 0 {
		t.Errorf("revision 1000, which comes: %d, pending %v", code, pending)
	}
	for _, bad := range []string{"", "x", "-1"} {
		if code, _ := ask(client, bad, "1s"); code != http.StatusBadRequest {
			t.Errorf("revision %q is answered with %d", bad, code)
		}
	}
	if code, _ := ask(client, "1", "soon"); code != http.StatusBadRequest {
		t.Errorf("a wait that is no duration is answered with %d", code)
	}
	if code, _ := ask(shared.anonymous(), "1", "0s"); code != http.StatusUnauthorized {
		t.Errorf("a stranger gets %d", code)
	}
}

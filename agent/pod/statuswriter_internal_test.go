package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func phased(version string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1", ResourceVersion: version},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

// TestOverruledBeforeTheAnswer has another client write over a status after the API server applied it, and the watch show that
// before the agent has the answer to its own write.
func TestOverruledBeforeTheAnswer(t *testing.T) {
	client := fake.NewClientset()
	w := newStatusWriter(client, phased("1", corev1.PodPending))
	patches := 0
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		if patches++; patches > 1 {
			return true, phased("4", corev1.PodRunning), nil
		}
		if w.setPod(phased("3", corev1.PodPending)) {
			t.Error("a pod that comes during a write is judged before the answer")
		}
		return true, phased("2", corev1.PodRunning), nil
	})
	w.write(&corev1.PodStatus{Phase: corev1.PodRunning})
	if err := w.writePending(t.Context()); err != errOverruled {
		t.Fatalf("the write that was overruled ended with %v", err)
	}
	if err := w.writePending(t.Context()); err != nil || patches != 2 {
		t.Errorf("after %d patches: %v, want a second one to succeed", patches, err)
	}
}

// TestOverruledAfterRestart has another client write over a status that an agent found as it should be.
func TestOverruledAfterRestart(t *testing.T) {
	w := newStatusWriter(fake.NewClientset(), phased("1", corev1.PodRunning))
	w.write(&corev1.PodStatus{Phase: corev1.PodRunning})
	if err := w.writePending(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.setPod(phased("2", corev1.PodPending)) {
		t.Error("nobody writes the status again")
	}
}

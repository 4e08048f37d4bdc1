package apiserver

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubectl/pkg/drain"
	"k8s.io/utils/ptr"
)

// drainLog tells when kubectl drain has been refused.
type drainLog struct {
	refused chan struct{}
	text    strings.Builder
}

func (l *drainLog) Write(p []byte) (int, error) {
	l.text.Write(p)
	if strings.Contains(l.text.String(), "Cannot evict pod as it would violate the pod's disruption budget.") {
		select {
		case l.refused <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

// kubectl drain waits for as long as a budget refuses, and goes on when it allows.
func TestDrainKeepsToBudgets(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	pods, budgets := shared.client.CoreV1().Pods(ns), shared.client.PolicyV1().PodDisruptionBudgets(ns)
	pod := makePod(t, ns, "p", "drained")
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "drained"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	budget, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allow := func(n int32) {
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DesiredHealthy: 1, CurrentHealthy: 1 + n, ExpectedPods: 1, DisruptionsAllowed: n}
		if budget, err = budgets.UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Sent without client-go, which tries again by itself after Retry-After.
	evict := func(options string) (*http.Response, string) {
		body := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}` + options + `}`
		response, answer := shared.raw(t, shared.config, "POST", "/api/v1/namespaces/"+ns+"/pods/p/eviction", http.Header{"Content-Type": {"application/json"}}, body)
		return response, string(answer)
	}
	// No loop has looked at the budget yet.
	if response, answer := evict(""); response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "10" {
		t.Errorf("evicted before the budget was counted: %s, to be tried again after %q s: %s", response.Status, response.Header.Get("Retry-After"), answer)
	}
	allow(0)
	if response, answer := evict(`,"deleteOptions":{"dryRun":["All"]}`); response.StatusCode != http.StatusTooManyRequests || !strings.Contains(answer, `"reason":"DisruptionBudget"`) {
		t.Errorf("a dry run is answered with %s: %s", response.Status, answer)
	}

	log := &drainLog{refused: make(chan struct{}, 1)}
	helper := &drain.Helper{Ctx: ctx, Client: shared.client, Force: true, GracePeriodSeconds: 0, Timeout: time.Minute, Out: log, ErrOut: log}
	done := make(chan error, 1)
	go func() { done <- drain.RunNodeDrain(helper, "drained") }()
	select {
	case <-log.refused:
	case err := <-done:
		t.Fatalf("the drain ended with %v while the budget allows nothing", err)
	}
	allow(1)
	if err := <-done; err != nil {
		t.Fatalf("the drain ended with %v\n%s", err, log.text.String())
	}
	after, err := budgets.Get(ctx, "b", metav1.GetOptions{})
	if err != nil || after.Status.DisruptionsAllowed != 0 || len(after.Status.DisruptedPods) != 1 {
		t.Errorf("after the eviction the budget has the status %+v, %v", after.Status, err)
	}
}

package disruption

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/eviction"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func run(t *testing.T, r *resource.Registry) *clocktesting.FakeClock {
	recorder := event.NewRecorder(r, Component)
	controlplanetest.Go(t, recorder.Run)
	clock := clocktesting.NewFakeClock(time.Now())
	controlplanetest.Go(t, func(ctx context.Context) { _ = New(r, recorder, clock).Run(ctx) })
	return clock
}

// pod is a running pod on a node, of a controller if there is one.
func pod(name string, ready bool, owner resource.Object) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status(ready)}}},
	}
	if owner != nil {
		gvk := owner.GetObjectKind().GroupVersionKind()
		p.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: ptr.To(true),
		}}
	}
	return p
}

func status(ready bool) corev1.ConditionStatus {
	if ready {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func budget(least, most *intstr.IntOrString) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: least, MaxUnavailable: most, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}
}

func awaitStatus(t *testing.T, r *resource.Registry, healthy, desired, expected, allowed int32) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.PodDisruptionBudgets}, func() string {
		b, err := resource.Get[*policyv1.PodDisruptionBudget](t.Context(), r, kinds.PodDisruptionBudgets, "default", "web")
		if err != nil {
			return err.Error()
		}
		s := b.Status
		if s.ObservedGeneration == b.Generation && s.CurrentHealthy == healthy && s.DesiredHealthy == desired && s.ExpectedPods == expected && s.DisruptionsAllowed == allowed {
			return ""
		}
		return fmt.Sprintf("generation %d, status %+v", b.Generation, s)
	})
}

func evict(t *testing.T, r *resource.Registry, name string, dryRun ...string) error {
	t.Helper()
	return eviction.Evict(t.Context(), r, "default", name, &metav1.DeleteOptions{DryRun: dryRun})
}

// wantRefusal wants the answer on which kubectl drain waits and tries again; cause may be empty.
func wantRefusal(t *testing.T, err error, cause string) {
	t.Helper()
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) ||
		err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." {
		t.Fatalf("the eviction ends with %v", err)
	}
	if got := err.(*apierrors.StatusError).ErrStatus.Details.Causes[0].Message; cause != "" && got != cause {
		t.Errorf("cause %q, want %q", got, cause)
	}
}

// An eviction is refused that leaves fewer healthy pods than the budget wants, a dry run spends nothing, and each eviction is counted at once.
func TestEvictionsKeepToTheBudget(t *testing.T) {
	r := controlplanetest.Start(t)
	clock := run(t, r)
	for i := range 3 {
		controlplanetest.Create(t, r, pod(fmt.Sprint("p", i), true, nil))
	}
	controlplanetest.Create(t, r, pod("sick", false, nil), budget(ptr.To(intstr.FromInt32(2)), nil))
	awaitStatus(t, r, 3, 2, 4, 1)
	if err := evict(t, r, "p0", metav1.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if err := evict(t, r, "sick"); err != nil { // there are enough healthy ones
		t.Fatal(err)
	}
	if err := evict(t, r, "p0"); err != nil {
		t.Fatal(err)
	}
	obj, err := r.Get(t.Context(), kinds.Pods, "default", "p0", "")
	if err != nil {
		t.Fatal(err)
	}
	gone := obj.(*corev1.Pod)
	if c := controller.PodCondition(gone, corev1.DisruptionTarget); gone.DeletionTimestamp == nil || c == nil || c.Status != corev1.ConditionTrue || c.Reason != "EvictionByEvictionAPI" {
		t.Errorf("the evicted pod is deleted at %v with conditions %v", gone.DeletionTimestamp, gone.Status.Conditions)
	}
	wantRefusal(t, evict(t, r, "p1"), "")
	awaitStatus(t, r, 2, 2, 4, 0)
	wantRefusal(t, evict(t, r, "p1"), "The disruption budget web needs 2 healthy pods and has 2 currently")
	// A pod that was allowed to be evicted and that nobody deletes counts again after two minutes.
	controlplanetest.Modify(t, r, kinds.PodDisruptionBudgets, "status", "default", "web", func(b *policyv1.PodDisruptionBudget) {
		b.Status.DisruptedPods = map[string]metav1.Time{"p1": metav1.NewTime(clock.Now())}
	})
	awaitStatus(t, r, 1, 2, 4, 0)
	clock.Step(deletionTimeout + time.Minute)
	awaitStatus(t, r, 2, 2, 4, 0)
}

// What a relative budget is relative to are the replicas that the pods' controllers want, and not the pods that are there.
func TestBudgetsOfControllers(t *testing.T) {
	r := controlplanetest.Start(t)
	run(t, r)
	template := `template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}`
	made := controlplanetest.Create(t, r, controlplanetest.Parse(t, `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 10, selector: {matchLabels: {app: web}}, `+template+`}}
---
{apiVersion: v1, kind: ReplicationController, metadata: {name: web}, spec: {replicas: 4, selector: {app: web}, `+template+`}}
`)...)
	set := controlplanetest.Parse(t, `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web-1}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, `+template+`}}`)[0]
	set.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: made[0].GetUID(), Controller: ptr.To(true)}})
	set = controlplanetest.Create(t, r, set)[0]
	for i := range 3 {
		controlplanetest.Create(t, r, pod(fmt.Sprint("p", i), true, set))
	}
	controlplanetest.Create(t, r, budget(nil, ptr.To(intstr.FromString("80%"))))
	awaitStatus(t, r, 3, 2, 10, 1)
	controlplanetest.Create(t, r, pod("other", true, made[1]))
	awaitStatus(t, r, 4, 2, 14, 2) // 80% of 14 are 12, rounded up
	foreign := pod("foreign", true, made[1])
	foreign.OwnerReferences[0].Name = "not-there"
	controlplanetest.Create(t, r, foreign)
	awaitStatus(t, r, 4, 2, 14, 0)
	wantRefusal(t, evict(t, r, "p0"), `The disruption budget web does not allow evicting pods currently because it failed sync: found no controllers for pod "foreign"`)
}

// A pod of two budgets cannot be evicted; one that is not healthy can be under AlwaysAllow, and otherwise not while too few others are.
func TestEvictionOfPodsThatAreNotReady(t *testing.T) {
	r := controlplanetest.Start(t)
	run(t, r)
	b := budget(ptr.To(intstr.FromInt32(2)), nil)
	controlplanetest.Create(t, r, pod("good", true, nil), pod("sick", false, nil), b)
	awaitStatus(t, r, 1, 2, 2, 0)
	wantRefusal(t, evict(t, r, "sick"), "The disruption budget web needs 2 healthy pods and has 1 currently")
	controlplanetest.Modify(t, r, kinds.PodDisruptionBudgets, "", "default", "web", func(b *policyv1.PodDisruptionBudget) {
		b.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow)
	})
	awaitStatus(t, r, 1, 2, 2, 0)
	if err := evict(t, r, "sick"); err != nil {
		t.Fatal(err)
	}
	second := budget(ptr.To(intstr.FromInt32(0)), nil)
	second.Name = "second"
	controlplanetest.Create(t, r, second)
	if err := evict(t, r, "good"); err == nil || err.Error() != "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support." {
		t.Errorf("the eviction ends with %v", err)
	}
}

// A pod that was marked as about to be evicted, and is still there after two minutes, is no longer marked.
func TestMarkOfPodsThatAreNotDeleted(t *testing.T) {
	r := controlplanetest.Start(t)
	clock := run(t, r)
	p := pod("marked", true, nil)
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(clock.Now()),
	})
	controlplanetest.Create(t, r, p)
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		clock.Step(staleAfter) // also when the loop saw the pod after the last step
		got, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", "marked")
		if err != nil {
			return err.Error()
		}
		if c := controller.PodCondition(got, corev1.DisruptionTarget); c.Status != corev1.ConditionFalse {
			return "the condition is still true"
		}
		return ""
	})
}

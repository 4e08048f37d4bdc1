package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func classes(t *testing.T, r *resource.Registry) {
	t.Helper()
	for name, value := range map[string]int32{"low": 10, "middle": 50, "high": 100} {
		controlplanetest.Create(t, r, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value})
	}
	controlplanetest.Create(t, r, &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "patient"}, Value: 100, PreemptionPolicy: ptr.To(corev1.PreemptNever),
	})
}

// of is a pod of a class that requests some CPU.
func of(t *testing.T, class, name, cpu string) *corev1.Pod {
	t.Helper()
	p := controlplanetest.Parse(t, pod(name, cpu))[0].(*corev1.Pod)
	p.Spec.PriorityClassName = class
	p.Labels = map[string]string{"app": name}
	return p
}

// leave deletes a pod as its node's agent does once its containers have ended.
func leave(t *testing.T, r *resource.Registry, name string) {
	t.Helper()
	zero := int64(0)
	if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", name, deleteNow(&zero)); err != nil {
		t.Fatal(err)
	}
}

// deleted names the pods that are being deleted.
func deleted(r *resource.Registry) (names []string) {
	for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
		if p.DeletionTimestamp != nil {
			names = append(names, p.Name)
		}
	}
	return names
}

func awaitNominated(t *testing.T, r *resource.Registry, name, node string) {
	t.Helper()
	awaitPod(t, r, name, func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == node })
}

func awaitDeleted(t *testing.T, r *resource.Registry, names ...string) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		if got := deleted(r); !slices.Equal(got, names) {
			return fmt.Sprintf("%v are being deleted, want %v", got, names)
		}
		return ""
	})
}

// A pod that fits nowhere gets the room of as few and as unimportant pods as possible; they end with their grace period, and the room is kept
// for it until then.
func TestPreemption(t *testing.T) {
	r := controlplanetest.Start(t)
	classes(t, r)
	start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("node1", 2))...)
	for _, p := range []*corev1.Pod{of(t, "low", "low", "1"), of(t, "middle", "middle", "1")} {
		controlplanetest.Create(t, r, p)
		awaitNode(t, r, p.Name, "node1")
	}
	controlplanetest.Create(t, r, of(t, "patient", "patient", "1"))
	awaitUnschedulable(t, r, "patient", "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.")
	controlplanetest.Create(t, r, of(t, "high", "huge", "3"))
	awaitUnschedulable(t, r, "huge", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	leave(t, r, "patient")
	leave(t, r, "huge")

	high := of(t, "high", "high", "1")
	high = controlplanetest.Create(t, r, high)[0].(*corev1.Pod)
	awaitDeleted(t, r, "low")
	awaitNominated(t, r, "high", "node1")
	awaitEvent(t, r, "high", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node node1, preempting 1 victims")
	awaitEvent(t, r, "low", "Preempted", fmt.Sprintf("Preempted by pod %s on node node1", high.UID))
	low, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", "low")
	if err != nil {
		t.Fatal(err)
	}
	c := controller.PodCondition(low, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonPreemptionByScheduler ||
		c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("the victim's conditions are %v", low.Status.Conditions)
	}
	if *low.DeletionGracePeriodSeconds != 30 {
		t.Errorf("the victim has %d s to end", *low.DeletionGracePeriodSeconds)
	}
	// What leaves room for the pod is not for one of lower priority that comes meanwhile.
	controlplanetest.Create(t, r, of(t, "middle", "late", "500m"))
	awaitUnschedulable(t, r, "late", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu.")
	leave(t, r, "low")
	awaitPod(t, r, "high", func(p *corev1.Pod) bool { return p.Spec.NodeName == "node1" && p.Status.NominatedNodeName == "" })
	awaitDeleted(t, r)
}

// The room that was kept for a pod is for others once the pod is deleted.
func TestNomineeIsDeleted(t *testing.T) {
	r := controlplanetest.Start(t)
	classes(t, r)
	start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("node1", 1))...)
	controlplanetest.Create(t, r, of(t, "low", "low", "1"))
	awaitNode(t, r, "low", "node1")
	controlplanetest.Create(t, r, of(t, "high", "high", "1"))
	awaitDeleted(t, r, "low")
	awaitNominated(t, r, "high", "node1")
	leave(t, r, "low")
	awaitNode(t, r, "high", "node1")

	controlplanetest.Create(t, r, of(t, "middle", "middle", "1"))
	awaitUnschedulable(t, r, "middle", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	critical := of(t, "system-cluster-critical", "critical", "1")
	controlplanetest.Create(t, r, critical)
	awaitNominated(t, r, "critical", "node1")
	awaitDeleted(t, r, "high")
	leave(t, r, "critical")
	leave(t, r, "high")
	awaitNode(t, r, "middle", "node1")
}

// Of two hosts the one is chosen where no disruption budget is violated, though its pods are more important.
func TestPreemptionPrefersBudgets(t *testing.T) {
	r := controlplanetest.Start(t)
	classes(t, r)
	for name, class := range map[string]string{"kept": "low", "free": "middle"} {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, node("of-"+name, 1))...)
		p := of(t, class, name, "1")
		p.Spec.NodeName = "of-" + name
		controlplanetest.Create(t, r, p)
	}
	controlplanetest.Create(t, r, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}},
	})
	start(t, r)
	controlplanetest.Create(t, r, of(t, "high", "high", "1"))
	awaitDeleted(t, r, "free")
	leave(t, r, "free")
	awaitNode(t, r, "high", "of-free")
	// Where nothing else helps, budgets do not hold preemption up.
	controlplanetest.Create(t, r, of(t, "high", "second", "1"))
	awaitDeleted(t, r, "kept")
}

// A nomination outlives the scheduler: the next one keeps the room too.
func TestNominationSurvivesTheScheduler(t *testing.T) {
	r := controlplanetest.Start(t)
	classes(t, r)
	stop := start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("node1", 1))...)
	controlplanetest.Create(t, r, of(t, "low", "low", "1"))
	awaitNode(t, r, "low", "node1")
	controlplanetest.Create(t, r, of(t, "high", "high", "1"))
	awaitDeleted(t, r, "low")
	awaitNominated(t, r, "high", "node1")
	stop()
	controlplanetest.Create(t, r, of(t, "middle", "middle", "1"))
	leave(t, r, "low")
	start(t, r)
	awaitNode(t, r, "high", "node1")
	awaitUnschedulable(t, r, "middle", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
}

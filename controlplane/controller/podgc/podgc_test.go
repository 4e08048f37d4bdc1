package podgc

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func run(t *testing.T, r *resource.Registry, threshold int) {
	controlplanetest.Go(t, func(ctx context.Context) { _ = New(r, threshold).Run(ctx) })
}

func pod(name, node string, finalizers ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func remove(t *testing.T, r *resource.Registry, k *resource.Kind, name string) {
	t.Helper()
	ns := "default"
	if !k.Namespaced {
		ns = ""
	}
	if _, _, err := r.Delete(t.Context(), k, ns, name, nil); err != nil {
		t.Fatal(err)
	}
}

// awaitPods waits until exactly the pods of these names are stored, and checks them.
func awaitPods(t *testing.T, r *resource.Registry, check func(*corev1.Pod) string, names ...string) {
	t.Helper()
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Pods}, func() string {
		var got []string
		for _, p := range controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default") {
			if got = append(got, p.Name); check != nil {
				if wrong := check(p); wrong != "" {
					return p.Name + " " + wrong
				}
			}
		}
		if !slices.Equal(got, names) {
			return fmt.Sprintf("there are %v, want %v", got, names)
		}
		return ""
	})
}

// Pods whose node does not exist are removed, after they are marked as failed; those of a node that was created again stay.
func TestPodsOfNodesThatDoNotExist(t *testing.T) {
	r := controlplanetest.Start(t)
	nodes := controlplanetest.Parse(t, `
{apiVersion: v1, kind: Node, metadata: {name: gone}}
---
{apiVersion: v1, kind: Node, metadata: {name: again}}
---
{apiVersion: v1, kind: Node, metadata: {name: stays}}
`)
	again := nodes[1].DeepCopyObject().(resource.Object)
	controlplanetest.Create(t, r, nodes...)
	controlplanetest.Create(t, r, pod("a-before", "never-was"))
	run(t, r, DefaultThreshold)
	controlplanetest.Create(t, r, pod("b-gone", "gone"), pod("c-held", "gone", "example.com/hold"), pod("d-again", "again"), pod("e-stays", "stays"), pod("f-unbound", ""))
	remove(t, r, kinds.Nodes, "gone")
	remove(t, r, kinds.Nodes, "again")
	controlplanetest.Create(t, r, again)
	awaitPods(t, r, func(p *corev1.Pod) string {
		if p.Name != "c-held" {
			return ""
		}
		target := controller.PodCondition(p, corev1.DisruptionTarget)
		if p.DeletionTimestamp == nil || p.Status.Phase != corev1.PodFailed || target == nil || target.Reason != "DeletionByPodGC" {
			return fmt.Sprintf("is being deleted at %v with status %+v", p.DeletionTimestamp, p.Status)
		}
		return ""
	}, "c-held", "d-again", "e-stays", "f-unbound")
}

// A pod that is being deleted and was never bound is marked as failed, so that its finalizer's owner can remove the finalizer.
func TestUnboundPodThatIsBeingDeleted(t *testing.T) {
	r := controlplanetest.Start(t)
	run(t, r, DefaultThreshold)
	controlplanetest.Create(t, r, pod("held", "", "example.com/hold"), pod("waits", ""))
	remove(t, r, kinds.Pods, "held")
	awaitPods(t, r, func(p *corev1.Pod) string {
		if failed := p.Status.Phase == corev1.PodFailed; failed != (p.Name == "held") || controller.PodCondition(p, corev1.DisruptionTarget) != nil {
			return fmt.Sprintf("has status %+v", p.Status)
		}
		return ""
	}, "held", "waits")
}

// Pods that are being deleted are removed from a node that the administrator has marked as out of service and that is not ready.
func TestNodeOutOfService(t *testing.T) {
	r := controlplanetest.Start(t)
	run(t, r, DefaultThreshold)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: v1
kind: Node
metadata: {name: dead}
status: {conditions: [{type: Ready, status: "True"}]}
`)...)
	controlplanetest.Create(t, r, pod("deleted", "dead"), pod("stays", "dead"))
	if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", "deleted", &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](3600)}); err != nil {
		t.Fatal(err)
	}
	controlplanetest.Modify(t, r, kinds.Nodes, "", "", "dead", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	})
	if _, err := r.Get(t.Context(), kinds.Pods, "default", "deleted", ""); err != nil {
		t.Fatalf("removed while the node is ready: %v", err)
	}
	controlplanetest.Modify(t, r, kinds.Nodes, "status", "", "dead", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
	awaitPods(t, r, nil, "stays")
}

// Terminated pods above the threshold are removed: evicted ones first, then the oldest; running pods do not count.
func TestTerminatedPodsAboveThreshold(t *testing.T) {
	r := controlplanetest.Start(t)
	run(t, r, 3)
	for i, status := range []corev1.PodStatus{
		{Phase: corev1.PodSucceeded}, {Phase: corev1.PodSucceeded}, {Phase: corev1.PodRunning}, {Phase: corev1.PodFailed},
		{Phase: corev1.PodFailed, Reason: "Evicted"}, {Phase: corev1.PodSucceeded},
	} {
		p := pod(fmt.Sprint("p", i), "")
		p.Status = status
		controlplanetest.Create(t, r, p)
	}
	awaitPods(t, r, nil, "p1", "p2", "p3", "p5")
	remove(t, r, kinds.Pods, "p1")
	p := pod("p6", "")
	p.Status.Phase = corev1.PodFailed
	controlplanetest.Create(t, r, p)
	awaitPods(t, r, nil, "p2", "p3", "p5", "p6")
	// The first two removals had to be counted before the third began.
	removed, failed := counted(t, "pod_gc_collector_force_delete_pods_total"), counted(t, "pod_gc_collector_force_delete_pod_errors_total")
	if removed < 2 || failed != 0 {
		t.Errorf("%v removals and %v failures are counted, want 2 or 3 and none", removed, failed)
	}
}

// counted is the value of a metric for terminated pods of the namespace default.
func counted(t *testing.T, name string) float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if labels := m.GetLabel(); family.GetName() == name && labels[0].GetValue() == "default" && labels[1].GetValue() == string(terminated) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

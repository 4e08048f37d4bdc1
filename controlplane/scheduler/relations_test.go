package scheduler_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func zoned(t *testing.T, r *resource.Registry, name, zone string) {
	t.Helper()
	n := controlplanetest.Parse(t, node(name, 4))[0].(*corev1.Node)
	n.Labels = map[string]string{corev1.LabelTopologyZone: zone, corev1.LabelHostname: name}
	controlplanetest.Create(t, r, n)
}

func labelled(name, app string, spec corev1.PodSpec) *corev1.Pod {
	spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}, Spec: spec}
}

func nodeOf(t *testing.T, r *resource.Registry, name string) (node string) {
	t.Helper()
	awaitPod(t, r, name, func(p *corev1.Pod) bool { node = p.Spec.NodeName; return node != "" })
	return node
}

// A pod that other pods keep out everywhere says so in Kubernetes' words, and is bound when one of them, on whatever host, is gone.
func TestPodsKeepAway(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	zoned(t, r, "a1", "a")
	zoned(t, r, "a2", "a")
	zoned(t, r, "b1", "b")
	spread := corev1.PodSpec{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}, NodeSelector: map[string]string{corev1.LabelTopologyZone: "a"}}
	spread.TopologySpreadConstraints[0].NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore)
	away := corev1.PodSpec{Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}}}}
	near := corev1.PodSpec{Affinity: &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cache"}},
	}}}}}

	controlplanetest.Create(t, r, labelled("web1", "web", spread))
	nodeOf(t, r, "web1")
	controlplanetest.Create(t, r, labelled("web2", "web", spread))
	awaitUnschedulable(t, r, "web2", "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match pod topology spread constraints. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.")
	controlplanetest.Create(t, r, labelled("near", "near", near))
	awaitUnschedulable(t, r, "near", "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.")
	controlplanetest.Create(t, r, labelled("away", "away", away))
	awaitNode(t, r, "away", "b1")
	// The third pod of the application would go beside it.
	web := corev1.PodSpec{NodeSelector: map[string]string{corev1.LabelTopologyZone: "b"}}
	controlplanetest.Create(t, r, labelled("web3", "web", web))
	awaitUnschedulable(t, r, "web3", "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.")

	zero := int64(0)
	if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", "away", deleteNow(&zero)); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, r, "web3", "b1") // now each zone has one, so that a second may be in a
	nodeOf(t, r, "web2")
	controlplanetest.Create(t, r, labelled("cache", "cache", corev1.PodSpec{}))
	awaitNode(t, r, "near", nodeOf(t, r, "cache"))
}

// Pods of a service go to different zones by default, though their labels differ.
func TestPodsOfAServiceAreSpread(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	zoned(t, r, "a1", "a")
	zoned(t, r, "b1", "b")
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {tier: front}, ports: [{port: 80}]}}`)...)
	// On the second node there is less room, so that by room alone both would go to the first.
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: v1
kind: Pod
metadata: {name: large}
spec: {nodeName: b1, containers: [{name: c, image: i, resources: {requests: {cpu: "1", memory: 2Gi}}}]}
`)...)
	for _, name := range []string{"one", "two"} {
		pod := labelled(name, name, corev1.PodSpec{})
		pod.Labels["tier"] = "front"
		controlplanetest.Create(t, r, pod)
		nodeOf(t, r, name)
	}
	if one, two := nodeOf(t, r, "one"), nodeOf(t, r, "two"); one == two {
		t.Errorf("both are on %s", one)
	}
}

// A pod with scheduling gates waits until all are removed.
func TestSchedulingGates(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	zoned(t, r, "a1", "a")
	controlplanetest.Create(t, r, labelled("gated", "x", corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "example.com/one"}, {Name: "example.com/two"}}}))
	ungate := func(n int) {
		controlplanetest.Modify(t, r, kinds.Pods, "", "default", "gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[:n] })
	}
	ungate(1)
	controlplanetest.Create(t, r, labelled("free", "x", corev1.PodSpec{}))
	awaitNode(t, r, "free", "a1") // the scheduler has seen both
	awaitPod(t, r, "gated", func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "" && p.Status.Conditions[0].Reason == corev1.PodReasonSchedulingGated
	})
	ungate(0)
	awaitNode(t, r, "gated", "a1")
}

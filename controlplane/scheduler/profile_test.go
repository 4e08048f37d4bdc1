package scheduler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// Each profile places the pods that name it, in its own way and in its own name; the pods that name none are left to other schedulers.
func TestProfiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins: {score: {disabled: [{name: "*"}], enabled: [{name: NodeResourcesFit}]}}
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := scheduler.ReadConfiguration(file)
	if err != nil {
		t.Fatal(err)
	}
	r := controlplanetest.Start(t)
	startWith(t, r, clock.RealClock{}, c)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, node("node1", 8)+"---"+node("node2", 8))...)
	create := func(name, scheduler string) {
		p := controlplanetest.Parse(t, pod(name, "1"))[0].(*corev1.Pod)
		p.Spec.SchedulerName = scheduler
		controlplanetest.Create(t, r, p)
	}
	create("others", "other-scheduler")
	nodes := map[string]map[string]int{}
	for _, profile := range []string{"packing", "default-scheduler"} {
		nodes[profile] = map[string]int{}
		for i := range 4 {
			name := fmt.Sprint(profile, i)
			create(name, profile)
			awaitPod(t, r, name, func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
			p, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", name)
			if err != nil {
				t.Fatal(err)
			}
			nodes[profile][p.Spec.NodeName]++
		}
	}
	if len(nodes["packing"]) != 1 {
		t.Errorf("packed pods lie on %v, want them on one", nodes["packing"])
	}
	if len(nodes["default-scheduler"]) != 1 || nodes["packing"]["node1"] > 0 == (nodes["default-scheduler"]["node1"] > 0) {
		t.Errorf("spread pods lie on %v, want them on the node without the packed ones, which are on %v", nodes["default-scheduler"], nodes["packing"])
	}
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Events}, func() string {
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Name == "packing0" && e.Reason == "Scheduled" && e.Source.Component == "packing" {
				return ""
			}
		}
		return "there is no event Scheduled of packing"
	})
	p, err := resource.Get[*corev1.Pod](t.Context(), r, kinds.Pods, "default", "others")
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.NodeName != "" || len(p.Status.Conditions) > 0 {
		t.Errorf("the pod of another scheduler is on %q with conditions %v", p.Spec.NodeName, p.Status.Conditions)
	}
}

// A pod that waits for other pods is bound because they come or go, not because time passes: the clock stands still.
func TestPodsWaitForPodsWithoutTime(t *testing.T) {
	r := controlplanetest.Start(t)
	startWith(t, r, clocktesting.NewFakeClock(clock.RealClock{}.Now()), scheduler.DefaultConfiguration())
	for _, name := range []string{"node1", "node2"} {
		n := controlplanetest.Parse(t, node(name, 8))[0].(*corev1.Node)
		n.Labels = map[string]string{"kubernetes.io/hostname": name}
		controlplanetest.Create(t, r, n)
	}
	parse := func(text string) *corev1.Pod { return controlplanetest.Parse(t, text)[0].(*corev1.Pod) }
	term := func(app string) string {
		return fmt.Sprintf("{requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: %s}}}]}", app)
	}
	labelled := func(name, app, node, affinity string) *corev1.Pod {
		return parse(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec: {nodeName: %q, affinity: %s, containers: [{name: c, image: i}]}
`, name, app, node, affinity))
	}
	parked := func(name string) {
		t.Helper()
		awaitPod(t, r, name, func(p *corev1.Pod) bool { return p.Spec.NodeName == "" && len(p.Status.Conditions) > 0 })
	}
	// It needs a pod that is not there yet.
	controlplanetest.Create(t, r, labelled("follower", "follower", "", "{podAffinity: "+term("leader")+"}"))
	parked("follower")
	controlplanetest.Create(t, r, labelled("leader", "leader", "node2", "{}"))
	awaitNode(t, r, "follower", "node2")
	// It keeps away from pods on both nodes.
	controlplanetest.Create(t, r, labelled("noise1", "noise", "node1", "{}"), labelled("noise2", "noise", "node2", "{}"))
	controlplanetest.Create(t, r, labelled("quiet", "quiet", "", "{podAntiAffinity: "+term("noise")+"}"))
	parked("quiet")
	leave(t, r, "noise1")
	awaitNode(t, r, "quiet", "node1")
	// A pod on each node keeps away from it.
	controlplanetest.Create(t, r, labelled("shy1", "shy", "node1", "{podAntiAffinity: "+term("crowd")+"}"), labelled("shy2", "shy", "node2", "{podAntiAffinity: "+term("crowd")+"}"))
	controlplanetest.Create(t, r, labelled("crowd", "crowd", "", "{}"))
	parked("crowd")
	leave(t, r, "shy2")
	awaitNode(t, r, "crowd", "node2")
	// The skew would be too large.
	controlplanetest.Create(t, r, labelled("even1", "even", "node1", "{}"))
	even := labelled("even2", "even", "", "{}")
	even.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "kubernetes.io/hostname", WhenUnsatisfiable: corev1.DoNotSchedule}}
	even.Spec.TopologySpreadConstraints[0].LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "even"}}
	even.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "node1"}
	ignore := corev1.NodeInclusionPolicyIgnore
	even.Spec.TopologySpreadConstraints[0].NodeAffinityPolicy = &ignore
	controlplanetest.Create(t, r, even)
	parked("even2")
	controlplanetest.Create(t, r, labelled("even3", "even", "node2", "{}"))
	awaitNode(t, r, "even2", "node1")
}

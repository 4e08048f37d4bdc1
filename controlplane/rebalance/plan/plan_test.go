package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/scheduler"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// cluster makes states: nodes as "zone/name", and replicas by the node that each is on.
type cluster struct{ scheduler.State }

func (c *cluster) nodes(names ...string) *cluster {
	for _, text := range names {
		zone, name, _ := strings.Cut(text, "/")
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
			Status: corev1.NodeStatus{
				Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10"), corev1.ResourceMemory: resource.MustParse("10Gi"), corev1.ResourcePods: resource.MustParse("100")},
				Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		}
		if zone != "" {
			n.Labels[corev1.LabelTopologyZone] = zone
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func (c *cluster) workload(name string, change func(*corev1.Pod), on ...string) *cluster {
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(len(on))), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
	}
	c.ReplicaSets = append(c.ReplicaSets, set)
	for i, node := range on {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: fmt.Sprint(name, "-", i), UID: types.UID(fmt.Sprint(name, "-", i)), Labels: map[string]string{"app": name},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
			},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi"),
			}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
		if change != nil {
			change(p)
		}
		c.Pods = append(c.Pods, p)
	}
	return c
}

func on(node string, n int) []string { return slices.Repeat([]string{node}, n) }

func large(p *corev1.Pod) {
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("2Gi")}
}

func text(p skepv1.RebalancePlan) string {
	var parts []string
	for _, m := range p.Moves {
		parts = append(parts, fmt.Sprintf("%s %s>%s", m.Pod, m.From, m.To))
	}
	for _, n := range p.Waiting {
		parts = append(parts, "waits: "+n.Reason)
	}
	for _, n := range p.Kept {
		parts = append(parts, "stays: "+n.Reason)
	}
	return strings.Join(parts, "; ")
}

func TestPlans(t *testing.T) {
	three := func() *cluster { return (&cluster{}).nodes("/n1", "/n2", "/n3") }
	for _, tt := range []struct {
		name  string
		state *cluster
		want  string
	}{
		{"even", three().workload("web", nil, "n1", "n2", "n3"), ""},
		{"as even as it can be", three().workload("web", nil, "n1", "n1", "n2", "n3"), ""},
		{"two and none", three().workload("web", nil, "n1", "n1", "n2"), "web-1 n1>n3"},
		{"a node was added", three().nodes("/n4").workload("web", nil, append(append(on("n1", 4), on("n2", 4)...), on("n3", 4)...)...),
			"web-3 n1>n4; web-7 n2>n4; web-9 n3>n4"},
		{"one replica a node of two, a third added", three().workload("web", nil, "n1", "n2"), ""},
		{"one replica", three().workload("web", large, "n1").workload("other", nil, "n1", "n2"), ""},
		{"a zone has returned", (&cluster{}).nodes("a/n1", "a/n2", "b/n3", "b/n4").workload("web", nil, "n1", "n2", "n1", "n2"), "web-2 n1>n3; web-3 n2>n4"},
		{"as good as where it is", (&cluster{}).nodes("a/n1", "a/n2", "a/n3", "b/n4").workload("web", nil, "n1", "n2", "n3", "n4"), ""},
		{"not all are ready", three().workload("web", func(p *corev1.Pod) {
			if p.Name == "web-0" {
				p.Status.Conditions = nil
			}
		}, on("n1", 3)...), "waits: 2 of 3 replicas are ready"},
		{"one is ending", three().workload("web", func(p *corev1.Pod) {
			if p.Name == "web-0" {
				p.DeletionTimestamp = &metav1.Time{}
			}
		}, on("n1", 3)...), "waits: pod web-0 is ending"},
		{"its own data", three().workload("web", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}, on("n1", 3)...), "stays: its pods have data of their own, in the emptyDir cache, which a move would delete"},
		{"its own data, well spread", three().workload("web", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}, "n1", "n2", "n3"), ""},
		{"files of nodes", three().workload("web", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "logs", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}, on("n1", 3)...), "stays: its pods use files of their nodes, by the hostPath logs"},
		{"nowhere else to go", three().workload("web", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n1"} }, on("n1", 3)...), ""},
		{"another scheduler's", three().workload("web", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }, on("n1", 3)...), ""},
		{"its own constraint, by zone alone", (&cluster{}).nodes("a/n1", "a/n2", "b/n3").workload("web", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
			}}
		}, "n1", "n1", "n1", "n3"), "web-2 n1>n3"},
		{"load alone", three().workload("one", large, "n1", "n2").workload("two", large, "n1", "n2").workload("three", large, "n1", "n2"), "one-0 n1>n3; three-1 n2>n3"},
		{"a little load", three().workload("one", nil, "n1", "n2").workload("two", nil, "n1", "n2").workload("three", nil, "n1", "n2"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scheduler.DefaultConfiguration()
			plan := Make(c, tt.state.State, Options{})
			if got := text(plan); got != tt.want {
				t.Errorf("plan is\n%s, want\n%s", got, tt.want)
			}
			// After a plan there is nothing left to do, and what it did is not undone.
			for _, m := range plan.Moves {
				for i, p := range tt.state.Pods {
					if string(p.UID) == m.UID {
						p = p.DeepCopy()
						p.Spec.NodeName = m.To
						tt.state.Pods[i] = p
					}
				}
			}
			if again := Make(c, tt.state.State, Options{}); len(again.Moves) > 0 {
				t.Errorf("after the plan there is another: %s", text(again))
			}
		})
	}
}

func TestWhoIsPlannedFor(t *testing.T) {
	state := func() *cluster {
		c := (&cluster{}).nodes("/n1", "/n2", "/n3").workload("a", nil, on("n1", 3)...).workload("b", nil, on("n1", 3)...)
		c.Namespaces = []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: map[string]string{}}}}
		return c
	}
	moves := func(c *cluster, o Options) (of string) {
		for _, m := range Make(scheduler.DefaultConfiguration(), c.State, o).Moves {
			of += m.Pod[:1]
		}
		return of
	}
	annotate := func(o metav1.Object, value string) {
		o.SetAnnotations(map[string]string{servicespec.RebalanceAnnotation: value})
	}
	for _, tt := range []struct {
		name   string
		change func(*cluster)
		o      Options
		want   string
	}{
		{"all", func(*cluster) {}, Options{}, "aabb"},
		{"some", func(*cluster) {}, Options{RebalanceQuery: skepv1.RebalanceQuery{Limit: 3}}, "aab"},
		{"all but one", func(*cluster) {}, Options{RebalanceQuery: skepv1.RebalanceQuery{Except: []string{"default/replicaset/a"}}}, "bb"},
		{"another namespace", func(*cluster) {}, Options{RebalanceQuery: skepv1.RebalanceQuery{Namespace: "other"}}, ""},
		{"nobody asks", func(*cluster) {}, Options{OptedIn: true}, ""},
		{"one asks", func(c *cluster) { annotate(c.ReplicaSets[1], "true") }, Options{OptedIn: true}, "bb"},
		{"the namespace asks", func(c *cluster) { annotate(c.Namespaces[0], "true") }, Options{OptedIn: true}, "aabb"},
		{"the namespace asks, one does not", func(c *cluster) {
			annotate(c.Namespaces[0], "true")
			annotate(c.ReplicaSets[0], "false")
		}, Options{OptedIn: true}, "bb"},
		{"one must stay", func(c *cluster) { annotate(c.ReplicaSets[0], "false") }, Options{}, "bb"},
		{"rollout", func(c *cluster) {
			d := []metav1.OwnerReference{{Kind: "Deployment", Name: "d", UID: "d", Controller: ptr.To(true)}}
			c.ReplicaSets[0].OwnerReferences, c.ReplicaSets[1].OwnerReferences = d, d
		}, Options{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := state()
			tt.change(c)
			if got := moves(c, tt.o); got != tt.want {
				t.Errorf("moves are of %q, want %q", got, tt.want)
			}
		})
	}
}

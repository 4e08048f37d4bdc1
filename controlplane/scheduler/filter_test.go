package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestWhyPodsDoNotFit(t *testing.T) {
	tests := []struct {
		name string
		node func(*corev1.Node)
		pod  func(*corev1.Pod)
		want string // "": it fits
	}{
		{name: "room"},
		{name: "persistent volume claim", pod: func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		}, want: `0/1 nodes are available: persistentvolumeclaim "data" not found.`},
		{name: "ephemeral volume", pod: func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}, want: `0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "pod-data".`},
		{name: "too much cpu", pod: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("3")
		}, want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "cpu and memory", pod: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3"), corev1.ResourceMemory: resource.MustParse("1Ti")}
		}, want: "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."},
		{name: "extended resource", pod: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}, want: "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{name: "init container asks for more than the rest", pod: func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5")}}}}
		}, want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "pod count", node: func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("0") },
			want: "0/1 nodes are available: 1 Too many pods."},
		{name: "cordoned", node: func(n *corev1.Node) { n.Spec.Unschedulable = true }, want: "0/1 nodes are available: 1 node(s) were unschedulable."},
		{name: "cordoned, tolerated", node: func(n *corev1.Node) { n.Spec.Unschedulable = true }, pod: func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}
		}},
		{name: "not ready", node: func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown },
			want: "0/1 nodes are available: 1 node(s) were not ready."},
		{name: "taint", node: func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "team", Value: "a", Effect: corev1.TaintEffectNoSchedule}}
		}, want: "0/1 nodes are available: 1 node(s) had untolerated taint(s)."},
		{name: "taint tolerated", node: func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "team", Value: "a", Effect: corev1.TaintEffectNoSchedule}}
		}, pod: func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "team", Operator: corev1.TolerationOpEqual, Value: "a", Effect: corev1.TaintEffectNoSchedule}}
		}},
		{name: "soft taint", node: func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "team", Effect: corev1.TaintEffectPreferNoSchedule}}
		}},
		{name: "node selector", pod: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} },
			want: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "node selector matches", pod: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }},
		{name: "required affinity", pod: func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"ssd"}}}}},
			}}}
		}, want: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "host port taken", pod: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 9000, Protocol: corev1.ProtocolTCP, HostIP: "10.0.0.1"}}
		}, want: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{name: "host port of another protocol", pod: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 9000, Protocol: corev1.ProtocolUDP}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(DefaultConfiguration())
			node := testNode("node1", "a", 2000, 10)
			if tt.node != nil {
				tt.node(node)
			}
			c.setNode(node)
			resident := testPod("resident", "other", 100, 9000)
			resident.Spec.NodeName = node.Name
			c.place(newRequest(resident))
			pod := testPod("pod", "app", 500, 0)
			if tt.pod != nil {
				tt.pod(pod)
			}
			h, why := c.choose(newRequest(pod))
			got := ""
			if h == nil {
				got = why.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNoNodes(t *testing.T) {
	if _, why := newCluster(DefaultConfiguration()).choose(newRequest(testPod("p", "a", 1, 0))); why.String() != noNodes {
		t.Errorf("got %q, want %q", why, noNodes)
	}
}

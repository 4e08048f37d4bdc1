package node

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// hosts is a cluster of fake nodes with a clock of its own.
type hosts struct {
	t     *testing.T
	r     *resource.Registry
	c     *Controller
	clock *clocktesting.FakeClock
	beats int
	// answers says whether hosts answer skepd's own.
	answers atomic.Bool
}

func startHosts(t *testing.T, names ...string) *hosts {
	r := controlplanetest.Start(t)
	for _, name := range names {
		controlplanetest.Create(t, r, controlplanetest.Parse(t, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s}
status:
  conditions:
  - {type: Ready, status: "True", lastHeartbeatTime: "2026-01-01T00:00:00Z"}
  - {type: MemoryPressure, status: "False"}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: %[1]s, namespace: kube-node-lease}
spec: {holderIdentity: %[1]s, leaseDurationSeconds: 5}
---
apiVersion: v1
kind: Pod
metadata: {name: web-%[1]s}
spec: {nodeName: %[1]s, containers: [{name: c, image: i}]}
status: {phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tolerant-%[1]s}
spec:
  nodeName: %[1]s
  containers: [{name: c, image: i}]
  tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 60}]
status: {phase: Running, conditions: [{type: Ready, status: "True"}]}
`, name))...)
	}
	fake := clocktesting.NewFakeClock(time.Now())
	recorder := event.NewRecorder(r, Component)
	controlplanetest.Go(t, recorder.Run)
	h := &hosts{t: t, r: r, clock: fake}
	h.c = New(r, recorder, fake, 5*time.Second, func(context.Context, *corev1.Node) bool { return h.answers.Load() })
	controlplanetest.Go(t, func(ctx context.Context) { _ = h.c.Run(ctx) })
	h.await(func() bool {
		h.c.health.mu.Lock()
		defer h.c.health.mu.Unlock()
		return !h.c.health.ticked.IsZero() && len(h.c.health.nodes) == len(names)
	})
	return h
}

// await polls for something in the loop's memory.
func (h *hosts) await(is func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			h.t.Fatal("the loop does not get there")
		}
	}
}

// live lets seconds pass in which the nodes in alive renew their leases.
func (h *hosts) live(seconds int, alive ...string) {
	h.t.Helper()
	for range seconds {
		h.beats++
		h.clock.Step(time.Second)
		for _, name := range alive {
			controlplanetest.Modify(h.t, h.r, kinds.Leases, "", corev1.NamespaceNodeLease, name, func(l *coordinationv1.Lease) {
				l.Spec.RenewTime = &metav1.MicroTime{Time: time.Unix(int64(h.beats), 0)}
			})
			h.await(func() bool {
				h.c.health.mu.Lock()
				defer h.c.health.mu.Unlock()
				return !h.c.health.nodes[name].seen.Before(h.clock.Now())
			})
		}
		h.await(func() bool {
			h.c.health.mu.Lock()
			defer h.c.health.mu.Unlock()
			return h.c.health.ticked.Equal(h.clock.Now())
		})
	}
}

func (h *hosts) awaitNode(name string, is func(*corev1.Node) bool) {
	h.t.Helper()
	controlplanetest.Await(h.t, h.r, []*resource.Kind{kinds.Nodes}, func() string {
		n, err := resource.Get[*corev1.Node](h.t.Context(), h.r, kinds.Nodes, "", name)
		if err != nil {
			return err.Error()
		}
		if is(n) {
			return ""
		}
		return fmt.Sprintf("node %s has conditions %v and taints %v", name, n.Status.Conditions, n.Spec.Taints)
	})
}

func (h *hosts) awaitPod(name string, is func(*corev1.Pod) bool) {
	h.t.Helper()
	controlplanetest.Await(h.t, h.r, []*resource.Kind{kinds.Pods}, func() string {
		p := h.pod(name)
		if is(p) {
			return ""
		}
		return fmt.Sprintf("pod %s is %v", name, p)
	})
}

// pod returns nil for a deleted pod.
func (h *hosts) pod(name string) *corev1.Pod {
	p, err := resource.Get[*corev1.Pod](h.t.Context(), h.r, kinds.Pods, "default", name)
	if err != nil {
		return nil
	}
	return p
}

func unknown(n *corev1.Node) bool {
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure} {
		c := controller.NodeCondition(n, kind)
		if c == nil || c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			return false
		}
	}
	return true
}

func taints(n *corev1.Node, key string) (count int) {
	for _, t := range n.Spec.Taints {
		if t.Key == key {
			count++
		}
	}
	return count
}

func terminating(p *corev1.Pod) bool { return p != nil && p.DeletionTimestamp != nil }

func TestSilentNode(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3")
	h.live(12, "node1", "node2", "node3")
	h.live(5, "node1", "node2")
	if n, _ := resource.Get[*corev1.Node](t.Context(), h.r, kinds.Nodes, "", "node3"); unknown(n) || len(n.Spec.Taints) > 0 {
		t.Fatalf("node3 is given up within the grace: %v %v", n.Status.Conditions, n.Spec.Taints)
	}
	h.live(1, "node1", "node2")
	h.awaitNode("node3", func(n *corev1.Node) bool { return unknown(n) && taints(n, corev1.TaintNodeUnreachable) == 2 })
	h.awaitPod("web-node3", func(p *corev1.Pod) bool { return terminating(p) && !controller.PodReady(p) })
	h.awaitPod("tolerant-node3", func(p *corev1.Pod) bool { return !terminating(p) && !controller.PodReady(p) })
	h.live(59, "node1", "node2")
	if terminating(h.pod("tolerant-node3")) {
		t.Error("a pod is evicted before its toleration ends")
	}
	h.live(3, "node1", "node2")
	h.awaitPod("tolerant-node3", terminating)
	// Deleted pods of a node that stays silent are removed in the end.
	h.live(180, "node1", "node2")
	h.awaitPod("web-node3", func(p *corev1.Pod) bool { return p == nil })
	for _, name := range []string{"web-node1", "web-node2"} {
		if p := h.pod(name); terminating(p) || !controller.PodReady(p) {
			t.Errorf("%s suffered", name)
		}
	}

	h.live(1, "node1", "node2", "node3")
	controlplanetest.Modify(t, h.r, kinds.Nodes, "status", "", "node3", func(n *corev1.Node) {
		c := controller.NodeCondition(n, corev1.NodeReady)
		c.Status, c.Reason = corev1.ConditionTrue, "KubeletReady"
	})
	h.awaitNode("node3", func(n *corev1.Node) bool { return len(n.Spec.Taints) == 0 })
}

// When all nodes are silent, this process is cut off, or there is no node for the pods.
func TestAllSilent(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3")
	h.live(12, "node1", "node2", "node3")
	h.live(120)
	for _, name := range []string{"node1", "node2", "node3"} {
		h.awaitNode(name, unknown)
		n, _ := resource.Get[*corev1.Node](t.Context(), h.r, kinds.Nodes, "", name)
		if len(n.Spec.Taints) > 0 {
			t.Errorf("%s is tainted: %v", name, n.Spec.Taints)
		}
		if p := h.pod("web-" + name); terminating(p) || !controller.PodReady(p) {
			t.Errorf("the pod of %s suffered", name)
		}
	}
	// Two return; the third gets time, and then its pods are evicted.
	h.live(5, "node1", "node2")
	if terminating(h.pod("web-node3")) {
		t.Error("the last node got no time to return as well")
	}
	h.live(25, "node1", "node2")
	// On this clock the time for which it is kept may be over already.
	h.awaitPod("web-node3", func(p *corev1.Pod) bool { return p == nil || terminating(p) })
}

// After a stop of this process no node counts as silent.
func TestStalledProcess(t *testing.T) {
	h := startHosts(t, "node1", "node2", "node3")
	h.live(12, "node1", "node2", "node3")
	h.clock.Step(time.Hour)
	h.live(4)
	h.live(20, "node1", "node2", "node3")
	for _, name := range []string{"node1", "node2", "node3"} {
		n, _ := resource.Get[*corev1.Node](t.Context(), h.r, kinds.Nodes, "", name)
		if unknown(n) || len(n.Spec.Taints) > 0 || terminating(h.pod("web-"+name)) {
			t.Errorf("%s was given up: %v %v", name, n.Status.Conditions, n.Spec.Taints)
		}
	}
}

// A node that is short of a resource gets no new pods until it reports that it no longer is; its running pods are its agent's business, and
// taints that others set stay.
func TestPressureTaints(t *testing.T) {
	h := startHosts(t, "a")
	set := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) {
		t.Helper()
		controlplanetest.Modify(t, h.r, kinds.Nodes, "status", "", "a", func(n *corev1.Node) {
			n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: kind, Status: status, LastHeartbeatTime: metav1.Now()})
		})
	}
	expect := func(keys ...string) {
		t.Helper()
		h.awaitNode("a", func(n *corev1.Node) bool {
			if len(n.Spec.Taints) != len(keys) {
				return false
			}
			for _, key := range keys {
				if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule }) {
					return false
				}
			}
			return true
		})
	}
	controlplanetest.Modify(t, h.r, kinds.Nodes, "", "", "a", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "owner", Value: "batch", Effect: corev1.TaintEffectNoSchedule}}
	})
	set(corev1.NodeMemoryPressure, corev1.ConditionTrue)
	expect("owner", corev1.TaintNodeMemoryPressure)
	set(corev1.NodeDiskPressure, corev1.ConditionTrue)
	set(corev1.NodePIDPressure, corev1.ConditionTrue)
	expect("owner", corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure)
	set(corev1.NodeMemoryPressure, corev1.ConditionFalse)
	set(corev1.NodePIDPressure, corev1.ConditionUnknown)
	expect("owner", corev1.TaintNodeDiskPressure)
	set(corev1.NodeDiskPressure, corev1.ConditionFalse)
	expect("owner")
	if p := h.pod("web-a"); p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod there: %+v", p.Status)
	}
}

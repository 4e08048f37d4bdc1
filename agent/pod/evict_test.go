package pod_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// ignoresTERM ignores the signal that asks it to end.
const ignoresTERM = "trap '' TERM; while true; do sleep 0.1; done"

func disruption(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.DisruptionTarget {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// An evicted pod is shown as failed once none of its containers runs, not before, and its resources are released; its object
// stays.
func TestEvict(t *testing.T) {
	c := newCluster(t, nil)
	long := int64(300)
	c.create(newPod("hog", func(s *corev1.PodSpec) {
		s.TerminationGracePeriodSeconds = &long
		s.Containers[0] = container("main", ignoresTERM)
	}))
	critical := newPod("critical", nil)
	critical.Spec.Priority = new(int32(2_000_001_000))
	c.create(critical)
	c.await("hog", "ready", isReady)
	c.await("critical", "ready", isReady)
	why := pod.Eviction{
		Message: "The node was low on resource: memory. ", GracePeriod: pod.ImmediateGracePeriod, Disrupted: true,
		Annotations: map[string]string{"starved_resource": "memory"},
	}
	if c.pods.Evict("uid-critical", why) || c.pods.Evict("uid-nobody", why) {
		t.Error("a pod that the cluster depends on, or none, was evicted")
	}
	if !c.pods.Evict("uid-hog", why) {
		t.Fatal("not evicted")
	}
	if c.pods.Evict("uid-hog", why) {
		t.Error("evicted a second time")
	}
	p := c.await("hog", "failure", func(p *corev1.Pod) bool {
		if p.Status.Phase == corev1.PodFailed {
			return true
		}
		if p.Status.Reason != "" || disruption(p) != nil {
			t.Errorf("shown as evicted while it runs: %s", describe(p))
		}
		return false
	})
	if p.Status.Reason != "Evicted" || p.Status.Message != why.Message || isReady(p) {
		t.Errorf("evicted pod: %s: %s", describe(p), p.Status.Message)
	}
	if s := p.Status.ContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.ExitCode != 137 || s.RestartCount != 0 {
		t.Errorf("its container: %s", describe(p))
	}
	if d := disruption(p); d == nil || d.Status != corev1.ConditionTrue || d.Reason != "TerminationByKubelet" || d.Message != why.Message {
		t.Errorf("DisruptionTarget is %+v", d)
	}
	runtimetest.Eventually(t, "what it held is given back", func() bool { return c.pods.Released("uid-hog") })
	if _, attached := c.network.Attachments()["uid-hog"]; attached || contains(c.node.Sandboxes(), "uid-hog") || contains(c.node.Cgroups().Pods(), "uid-hog") {
		t.Error("the evicted pod holds its address, namespaces or cgroup")
	}
	if c.pods.Released("uid-critical") || !isReady(c.get("critical")) {
		t.Error("the critical pod does not run")
	}
	c.expectEvents(t, "Warning Evicted The node was low on resource: memory.  map[starved_resource:memory]")
}

// A decision of an agent that is killed before it has reported it is kept: the next agent ends the pod, which otherwise would
// be started again.
func TestEvictOutlivesTheAgent(t *testing.T) {
	client := fake.NewClientset()
	var away atomic.Bool
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, apiruntime.Object, error) {
		if away.Load() {
			return true, nil, errors.New("the API server is away")
		}
		return false, nil, nil
	})
	c := newCluster(t, client)
	long := int64(300)
	c.create(newPod("hog", func(s *corev1.PodSpec) {
		s.TerminationGracePeriodSeconds = &long
		s.Containers[0] = container("main", ignoresTERM)
	}))
	c.await("hog", "ready", isReady)
	away.Store(true)
	if !c.pods.Evict("uid-hog", pod.Eviction{Message: "The node was low on resource: memory. ", GracePeriod: 3}) {
		t.Fatal("not evicted")
	}
	c.restartAgent(func() { away.Store(false) })
	p := c.await("hog", "failure", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "Evicted" || !strings.HasPrefix(p.Status.Message, "The node was low") || disruption(p) != nil {
		t.Errorf("evicted pod: %s: %s", describe(p), p.Status.Message)
	}
	runtimetest.Eventually(t, "what it held is given back", func() bool { return c.pods.Released("uid-hog") })
	for _, ctr := range c.node.Containers() {
		if ctr.State == runtime.Running || ctr.Attempt != 0 {
			t.Errorf("container %s of attempt %d is %v", ctr.ID, ctr.Attempt, ctr.State)
		}
	}
}

// A node that is short of a resource accepts no pods, except those that it must, and pods that run already keep running when
// the agent restarts.
func TestPressedNodeRefusesPods(t *testing.T) {
	c := newCluster(t, nil)
	var short atomic.Pointer[[]corev1.NodeConditionType]
	short.Store(&[]corev1.NodeConditionType{corev1.NodeMemoryPressure})
	c.create(newPod("before", nil))
	c.await("before", "ready", isReady)
	c.startWith(func(cfg *podConfig) {
		cfg.Pressure = func() []corev1.NodeConditionType { return *short.Load() }
	}, func() {})
	half := map[corev1.ResourceName]string{"memory": "8Mi"}
	burstable := func(s *corev1.PodSpec) { s.Containers[0].Resources = resources(half, nil) }
	critical := func(s *corev1.PodSpec) { s.Priority = new(int32(2_000_000_000)) }
	tolerating := func(s *corev1.PodSpec) {
		s.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	}
	try := func(name, refusal string, change func(*corev1.PodSpec)) {
		t.Helper()
		c.create(newPod(name, change))
		if refusal == "" {
			c.await(name, "ready", isReady)
			return
		}
		p := c.await(name, "refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if p.Status.Reason != "Evicted" || p.Status.Message != "Pod was rejected: "+refusal || len(p.Status.ContainerStatuses) > 0 {
			t.Errorf("%s: %s: %q", name, describe(p), p.Status.Message)
		}
		c.awaitEvent("Warning Evicted " + refusal)
	}
	try("best", "The node had condition: [MemoryPressure]. ", nil)
	try("best-tolerating", "", tolerating)
	try("burstable", "", burstable)
	try("critical", "", critical)
	short.Store(&[]corev1.NodeConditionType{corev1.NodeDiskPressure})
	try("burstable-disk", "The node had condition: [DiskPressure]. ", burstable)
	try("tolerating-disk", "The node had condition: [DiskPressure]. ", tolerating)
	try("critical-disk", "", critical)
	short.Store(&[]corev1.NodeConditionType{})
	try("later", "", nil)
	if p := c.get("before"); !isReady(p) || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("what ran before: %s", describe(p))
	}
}

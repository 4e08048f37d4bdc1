package pod_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// stamper is a container that writes the host's uptime when it is asked to end.
func stamper(s *corev1.PodSpec) {
	s.Containers[0] = container("main", "trap 'read up rest < /proc/uptime; echo $up; exit 0' TERM; echo up; while true; do busybox usleep 1000; done")
}

// uptime is the host's, in steps of 10 ms.
func uptime(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	return parseUptime(t, string(data))
}

func parseUptime(t testing.TB, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(strings.Fields(text)[0] + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// endpointOf adds a ready pod to a service, as the control plane would.
func (c *cluster) endpointOf(p *corev1.Pod) *discoveryv1.EndpointSlice {
	c.t.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-" + p.Name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{p.Status.PodIP}, NodeName: ptr.To(testNode),
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		}},
	}
	created, err := c.client.DiscoveryV1().EndpointSlices("default").Create(context.Background(), s, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	runtimetest.Eventually(c.t, "the slice at the watcher", func() bool { return c.watcher.IsEndpoint(p.UID) })
	return created
}

// drained is the condition that says how a pod's drain ended. The pod may be gone by then, so it is read from what was written.
func (c *cluster) drained(name string) (cond corev1.PodCondition) {
	c.t.Helper()
	runtimetest.Eventually(c.t, "the condition of the drain of "+name, func() bool {
		for _, action := range c.client.(*fake.Clientset).Actions() {
			patch, ok := action.(clienttesting.PatchAction)
			var pod corev1.Pod
			if !ok || patch.GetName() != name || json.Unmarshal(patch.GetPatch(), &pod) != nil {
				continue
			}
			for _, has := range pod.Status.Conditions {
				if has.Type == servicespec.PodDrained {
					cond = has
				}
			}
		}
		return cond.Type != ""
	})
	return cond
}

// signalledAt is when the container's trap ran.
func (c *cluster) signalledAt(id string) (at time.Duration) {
	c.t.Helper()
	runtimetest.Eventually(c.t, "the signal in the log", func() bool {
		lines := strings.Fields(c.node.Logs.Text(id))
		if len(lines) < 2 {
			return false
		}
		at = parseUptime(c.t, lines[1])
		return true
	})
	return at
}

// kubernetes 43576 and 85643: a deleted pod answers until other nodes have stopped sending to it, and no longer.
func TestDeletionWaitsForEndpoints(t *testing.T) {
	c := newCluster(t, nil)
	begin := func(name string) (*corev1.Pod, string) {
		c.create(newPod(name, stamper))
		p := c.await(name, "ready", isReady)
		running, _, err := c.pods.Find("default", name, "")
		if err != nil {
			t.Fatal(err)
		}
		runtimetest.Eventually(t, "the trap", func() bool { return strings.Contains(c.node.Logs.Text(running.ID), "up") })
		return p, running.ID
	}

	t.Run("announced", func(t *testing.T) {
		p, id := begin("announced")
		slice := c.endpointOf(p)
		c.deleteGracefully("announced", 30*time.Second)
		slice.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
		if _, err := c.client.DiscoveryV1().EndpointSlices("default").Update(context.Background(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		updated := uptime(t)
		if after := c.signalledAt(id) - updated; after < 30*time.Millisecond {
			t.Errorf("signalled %v after its endpoint was withdrawn: other nodes had no time to learn of it", after)
		}
		if cond := c.drained("announced"); cond.Status != corev1.ConditionTrue {
			t.Errorf("condition %+v", cond)
		}
	})
	t.Run("not announced", func(t *testing.T) {
		p, id := begin("unannounced")
		c.endpointOf(p)
		began := uptime(t)
		c.deleteGracefully("unannounced", 30*time.Second)
		if after := c.signalledAt(id) - began; after < 1500*time.Millisecond {
			t.Errorf("signalled after %v although its endpoint is ready", after)
		}
		if cond := c.drained("unannounced"); cond.Status != corev1.ConditionFalse || cond.Message != "the control plane had not withdrawn its endpoint" {
			t.Errorf("condition %+v", cond)
		}
		runtimetest.Eventually(t, "removal although nobody withdrew its endpoint", func() bool { return !contains(c.node.PodUIDs(), string(p.UID)) })
	})
	t.Run("no endpoint", func(t *testing.T) {
		_, id := begin("alone")
		began := uptime(t)
		c.deleteGracefully("alone", 30*time.Second)
		if after := c.signalledAt(id) - began; after > time.Second {
			t.Errorf("signalled after %v although it is nobody's endpoint", after)
		}
	})
}

// KEP-1669: what serves if nothing else does must stay ready while it ends, and probes that would kill it must not.
func TestTerminatingPodStaysReady(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("serving", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "trap 'while [ ! -e /leave ]; do busybox usleep 10000; done; exit 0' TERM; > /trapped; while true; do busybox usleep 1000; done")
		s.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "test -e /trapped -a ! -e /unready"}}},
			PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
		}
	}))
	c.await("serving", "ready", isReady)
	c.deleteGracefully("serving", 30*time.Second)
	runtimetest.Eventually(t, "the order to end", func() bool { return c.hasEvent("Normal Killing Stopping container main") })
	if p := c.get("serving"); !isReady(p) {
		t.Errorf("not ready while it still serves: %s", describe(p))
	}
	c.plane.mu.Lock()
	withdrawn := len(c.plane.withdrawn)
	c.plane.mu.Unlock()
	if withdrawn != 0 {
		t.Error("taken out of the maps while it still serves")
	}
	running, _, err := c.pods.Find("default", "serving", "")
	if err != nil {
		t.Fatal(err)
	}
	run := func(script string) {
		t.Helper()
		if code, err := c.node.Exec(context.Background(), running.ID, []string{"sh", "-c", script}, runtime.ExecOptions{}); err != nil || code != 0 {
			t.Fatal(code, err)
		}
	}
	run("echo > /unready")
	c.await("serving", "unready", func(p *corev1.Pod) bool { return !isReady(p) })
	run("echo > /leave")
	runtimetest.Eventually(t, "removal", func() bool { return !contains(c.node.PodUIDs(), "uid-serving") })
}

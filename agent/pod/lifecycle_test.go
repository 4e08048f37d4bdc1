package pod_test

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

func TestAgentRestartDisturbsNothing(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("stays", nil))
	c.create(newPod("leaves", nil))
	c.create(newPod("crashes", nil))
	before := c.await("stays", "ready", isReady)
	c.await("leaves", "ready", isReady)
	c.await("crashes", "ready", isReady)
	leaving, _, err := c.pods.Find("default", "leaves", "")
	if err != nil {
		t.Fatal(err)
	}
	crashing, _, err := c.pods.Find("default", "crashes", "")
	if err != nil {
		t.Fatal(err)
	}
	c.restartAgent(func() {
		if err := c.client.CoreV1().Pods("default").Delete(context.Background(), "leaves", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(crashing.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	c.await("crashes", "restart", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	after := c.get("stays")
	if b, a := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || a.RestartCount != 0 || !isReady(after) {
		t.Errorf("restarted agent changed %+v to %+v", b, a)
	}
	runtimetest.Eventually(t, "the deleted pod's removal", func() bool {
		_, known := c.node.Container(leaving.ID)
		_, attached := c.network.Attachments()["uid-leaves"]
		return !known && !attached && !contains(c.node.PodUIDs(), "uid-leaves")
	})
}

func TestDeletion(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("gone", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "trap 'exit 0' TERM; while true; do sleep 0.05; done")
		s.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo bye > /proc/1/fd/1"}}}}
	}))
	c.await("gone", "ready", isReady)
	running, _, err := c.pods.Find("default", "gone", "")
	if err != nil {
		t.Fatal(err)
	}
	c.deleteGracefully("gone", 30*time.Second)
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-gone") })
	if _, err := c.client.CoreV1().Pods("default").Get(context.Background(), "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the object is still there: %v", err)
	}
	if text := c.node.Logs.Text(running.ID); text != "bye\n" {
		t.Errorf("the preStop hook left %q", text)
	}
	c.expectEvents(t, "Normal Killing Stopping container main")
}

// Hooks and probes that leave a child behind, which holds their output open, end with their own process: the pod becomes ready
// and is removed, and its grace period is not used up (containerd/containerd#7802).
func TestHooksAndProbesThatLeaveAChild(t *testing.T) {
	c := newCluster(t, nil)
	leaves := func() corev1.ProbeHandler {
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 1000 &"}}}
	}
	c.create(newPod("parent", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "trap 'exit 0' TERM; while true; do sleep 0.05; done")
		s.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: leaves(), TimeoutSeconds: 1, PeriodSeconds: 10}
		s.Containers[0].Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: leaves().Exec}, PreStop: &corev1.LifecycleHandler{Exec: leaves().Exec},
		}
	}))
	c.await("parent", "ready", isReady)
	began := time.Now()
	const grace = 5 * time.Minute
	c.deleteGracefully("parent", grace)
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-parent") })
	if took := time.Since(began); took >= grace {
		t.Errorf("removed after %v", took)
	}
}

// A postStart hook whose target accepts the connection and never answers ends with its container, and the pod with both.
func TestHookThatNeverEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	c := newCluster(t, nil)
	c.create(newPod("hooked", func(s *corev1.PodSpec) {
		port := intstr.FromInt32(int32(silent.Addr().(*net.TCPAddr).Port)) //nolint:gosec // a port fits
		s.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Port: port, Scheme: corev1.URISchemeHTTP},
		}}
	}))
	c.await("hooked", "ready", isReady)
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.deleteGracefully("hooked", time.Second)
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-hooked") })
	runtimetest.Eventually(t, "removal of the object", func() bool {
		_, err := c.client.CoreV1().Pods("default").Get(context.Background(), "hooked", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// A registry that accepts connections and never answers must not delay a deletion: a drain of the node would hang too.
func TestDeletionWhilePulling(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() }) // ends the pull: the kernel resets connections that were not accepted
	c := newCluster(t, nil)
	c.create(newPod("pulling", func(s *corev1.PodSpec) { s.Containers[0].Image = silent.Addr().String() + "/absent:1" }))
	pulling := `Normal Pulling Pulling image "` + silent.Addr().String() + `/absent:1"`
	runtimetest.Eventually(t, pulling, func() bool { return c.hasEvent(pulling) })
	c.deleteGracefully("pulling", 30*time.Second)
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-pulling") })
	runtimetest.Eventually(t, "removal of the object", func() bool {
		_, err := c.client.CoreV1().Pods("default").Get(context.Background(), "pulling", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.log {
		if strings.HasPrefix(e, "Warning") {
			t.Errorf("event %q", e)
		}
	}
}

// The end of a grace period in the API has no fractions of a second; the container gets the whole period all the same.
func TestGracePeriodIsGrantedWhole(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("stubborn", func(s *corev1.PodSpec) {
		s.Containers[0] = container("main", "trap '' TERM; while true; do sleep 0.05; done")
	}))
	c.await("stubborn", "ready", isReady)
	const grace = 2 * time.Second
	began := time.Now()
	c.deleteGracefully("stubborn", grace)
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-stubborn") })
	if took := time.Since(began); took < grace {
		t.Errorf("killed after %v of a grace period of %v", took, grace)
	}
}

// deleteGracefully does what the API server does with a graceful deletion, at the worst moment: the end of the period is
// cut to the second.
func (c *cluster) deleteGracefully(name string, grace time.Duration) {
	c.t.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	end, seconds := metav1.NewTime(time.Now().Add(grace-999*time.Millisecond)), int64(grace/time.Second)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &end, &seconds
	p.Finalizers = []string{"test/hold"} // the tracker refuses a bare deletion timestamp
	if _, err := c.client.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func TestActiveDeadline(t *testing.T) {
	c := newCluster(t, nil)
	second := int64(1)
	c.create(newPod("late", func(s *corev1.PodSpec) { s.ActiveDeadlineSeconds = &second }))
	p := c.await("late", "failure", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("reason %q, message %q", p.Status.Reason, p.Status.Message)
	}
	c.await("late", "its container's end", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].State.Terminated != nil })
}

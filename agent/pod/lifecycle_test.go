package pod_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	p := c.await("gone", "ready", isReady)
	running, _, err := c.pods.Find("default", "gone", "")
	if err != nil {
		t.Fatal(err)
	}
	// What the API server does with a graceful deletion.
	now, grace := metav1.NewTime(time.Now().Add(30*time.Second)), int64(30)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	p.Finalizers = []string{"test/hold"} // the tracker refuses a bare deletion timestamp
	if _, err := c.client.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "removal from the node", func() bool { return !contains(c.node.PodUIDs(), "uid-gone") })
	if _, err := c.client.CoreV1().Pods("default").Get(context.Background(), "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the object is still there: %v", err)
	}
	if text := c.node.Logs.Text(running.ID); text != "bye\n" {
		t.Errorf("the preStop hook left %q", text)
	}
	c.expectEvents(t, "Normal Killing Stopping container main")
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

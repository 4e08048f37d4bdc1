package pod_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

func TestPodRuns(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("web", nil))
	p := c.await("web", "ready", isReady)
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.244.7.1" || p.Status.HostIP != "192.0.2.1" {
		t.Errorf("status %+v", p.Status)
	}
	cs := p.Status.ContainerStatuses[0]
	if !cs.Ready || cs.Started == nil || !*cs.Started || cs.State.Running == nil || !strings.HasPrefix(cs.ContainerID, "containerd://") || cs.Image != testImage {
		t.Errorf("container status %+v", cs)
	}
	for _, want := range []string{
		`Normal Pulled Container image "skep.test/busybox:1" already present on machine and can be accessed by the pod`,
		"Normal Created Container created", "Normal Started Container started",
	} {
		runtimetest.Eventually(t, want, func() bool { return c.hasEvent(want) })
	}
}

var (
	_ = context.Background
	_ = apierrors.IsNotFound
	_ = metav1.DeleteOptions{}
	_ = runtime.Running
)

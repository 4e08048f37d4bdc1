package pod_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// A pod whose shim is killed while the pod is deleted has not ended before its processes have: its object goes when nothing of it runs any more, and
// nothing of it is left on the node. Otherwise a pod of the same name could run beside it.
func TestShimKilledWhileThePodIsDeleted(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("orphaned", nil))
	uid := string(c.await("orphaned", "ready", isReady).UID)
	running, _, err := c.pods.Find("default", "orphaned", "")
	if err != nil {
		t.Fatal(err)
	}
	shim := parentOf(t, running.Pid)
	if err := c.client.CoreV1().Pods("default").Delete(context.Background(), "orphaned", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the pod's removal from the node", func() bool { return !contains(c.node.PodUIDs(), uid) })
	// Whoever got the shim's children may not have waited for the process yet: then it is a zombie.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", running.Pid))
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the container's process still runs after the pod: %s", stat)
	}
}

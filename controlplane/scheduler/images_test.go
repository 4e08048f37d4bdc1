package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A host that has the pod's large image is preferred, also when the name lacks its tag; once the image is removed, it is not.
func TestHostsWithTheImage(t *testing.T) {
	c := newCluster(DefaultConfiguration())
	has := testNode("node2", "zone", 64000, 110)
	has.Status.Images = []corev1.ContainerImage{{Names: []string{"registry.example/app:latest", "registry.example/app@sha256:1"}, SizeBytes: 900 << 20}}
	for i := range 4 {
		c.setNode(testNode(fmt.Sprint("node", i), "zone", 64000, 110))
	}
	c.setNode(has)
	scores := func() []int64 {
		pod := testPod("pod", "app", 1, 0)
		pod.Spec.Containers[0].Image = "registry.example/app"
		r := imageScore{}.rating(c, newRequest(pod))
		if r == nil {
			return nil
		}
		into := make([]int64, len(c.order.hosts()))
		r.rate(c.order.hosts(), into)
		return into
	}
	// 900 MiB of which a quarter counts, as one host of four has it: (225-23)/(1000-23).
	if got := fmt.Sprint(scores()); got != "[0 0 20 0]" {
		t.Errorf("scores are %s, want [0 0 20 0]", got)
	}
	c.setNode(testNode("node2", "zone", 64000, 110))
	if got := scores(); got != nil || len(c.images) != 0 {
		t.Errorf("without the image scores are %v, and %d images are known", got, len(c.images))
	}
}

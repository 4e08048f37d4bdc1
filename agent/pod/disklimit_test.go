package pod_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/agent/usage"
)

func quick(cfg *podConfig) { cfg.DiskInterval = 50 * time.Millisecond }

// fillers are pods that go past one of their limits each, and what is said of them.
var fillers = []struct {
	name, script, message string
	change                func(*corev1.PodSpec)
}{
	{ // deeper than folders are kept open
		name: "volume", script: `p=/v; i=0; while [ $i -lt 150 ]; do p=$p/d; i=$((i+1)); done; mkdir -p $p; dd if=/dev/zero of=$p/file bs=1M count=6`,
		message: `Usage of EmptyDir volume "v" exceeds the limit "4Mi". `,
		change:  func(s *corev1.PodSpec) { s.Volumes[0].EmptyDir.SizeLimit = ptr.To(resource.MustParse("4Mi")) },
	},
	{
		name: "container", script: "dd if=/dev/zero of=/file bs=1M count=6", message: `Container main exceeded its local ephemeral storage limit "4Mi". `,
		change: func(s *corev1.PodSpec) {
			limitStorage(&s.Containers[0], "4Mi")
			other := container("other", "sleep 1000")
			limitStorage(&other, "100Mi")
			s.Containers = append(s.Containers, other)
		},
	},
	{ // CVE-2020-8557
		name: "hosts", script: "dd if=/dev/zero of=/etc/hosts bs=1M count=6", message: `Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. `,
		change: func(s *corev1.PodSpec) { limitStorage(&s.Containers[0], "4Mi") },
	},
}

var volumeKey = usage.Key{Kind: usage.Volume, Name: "v"}

func limitStorage(c *corev1.Container, limit string) {
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(limit)}
}

// evicted waits for a pod's eviction. It is patient: what is measured is what a pod has written, and that takes as long as it takes.
func (c *cluster) evicted(name string) *corev1.Pod {
	c.t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		p := c.get(name)
		if p.Status.Phase == corev1.PodFailed {
			return p
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("pod %s is not evicted: %s", name, describe(p))
		}
	}
}

// needCPU keeps a container from waiting for all else that runs on a busy machine.
func needCPU(c *corev1.Container) {
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
}

func TestPodsPastTheirDiskLimitsAreEvicted(t *testing.T) {
	c := newCluster(t, nil)
	c.startWith(quick, func() {})
	begin := func(name, script string, change func(*corev1.PodSpec)) {
		c.create(newPod(name, func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			s.Containers[0] = container("main", script+"; exec sleep 1000")
			s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			change(s)
			needCPU(&s.Containers[0])
		}))
	}
	begin("within", "dd if=/dev/zero of=/v/file bs=1M count=2; dd if=/dev/zero of=/etc/hosts bs=1M count=1", func(s *corev1.PodSpec) {
		s.Volumes[0].EmptyDir.SizeLimit = ptr.To(resource.MustParse("4Mi"))
		limitStorage(&s.Containers[0], "6Mi")
	})
	for _, f := range fillers {
		begin(f.name, f.script, f.change)
	}
	for _, f := range fillers {
		p := c.evicted(f.name)
		if p.Status.Reason != "Evicted" || p.Status.Message != f.message {
			t.Errorf("%s: %s: %q, want %q", f.name, p.Status.Reason, p.Status.Message, f.message)
		}
		c.awaitEvent("Warning Evicted " + f.message)
		runtimetest.Eventually(t, "the disk to be given back by "+f.name, func() bool {
			disk, ok := c.pods.Disk("uid-" + f.name)
			return ok && disk.Total().Bytes < mebi
		})
	}
	runtimetest.Eventually(t, "the figures of the pod within its limits", func() bool {
		disk, _ := c.pods.Disk("uid-within")
		return disk.Trees[volumeKey].Bytes >= 2*mebi
	})
	if p := c.get("within"); p.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod within its limits: %s %s", p.Status.Phase, p.Status.Message)
	}
}

// What a pod had before the agent was killed counts when the next one has come.
func TestDiskLimitsHoldAfterTheAgentsDeath(t *testing.T) {
	c := newCluster(t, nil)
	c.startWith(func(cfg *podConfig) { cfg.DiskInterval = time.Hour }, func() {}) // nothing is seen before the death
	c.create(newPod("filler", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
		s.Containers[0] = container("main", "while [ ! -e /v/go ]; do sleep 0.1; done; dd if=/dev/zero of=/v/file bs=1M count=3; exec sleep 1000")
		s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		needCPU(&s.Containers[0])
	}))
	c.await("filler", "ready", isReady)
	c.startWith(quick, func() {
		if err := os.WriteFile(filepath.Join(c.node.PodDir("uid-filler"), "volumes/v/go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	p := c.evicted("filler")
	if want := `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `; p.Status.Message != want {
		t.Errorf("message %q, want %q", p.Status.Message, want)
	}
}

package pod_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/agent/usage"
)

const mebi = 1 << 20

// Wherever a container writes to the node's disk, it is counted: CVE-2020-8557 was that /etc/hosts was not.
func TestAllThatAContainerWritesIsCounted(t *testing.T) {
	c := newCluster(t, nil)
	c.startWith(func(cfg *podConfig) { cfg.DiskInterval = 50 * time.Millisecond }, func() {})
	c.create(newPod("writer", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{
			{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		}
		s.Containers[0] = container("main", `
			write() { dd if=/dev/zero of=$1 bs=1M count=$2; }
			write /disk/file 1; write /memory/file 2; write /root-file 3; write /etc/hosts 4; write /dev/termination-log 5
			mkdir /disk/dir; touch /disk/dir/empty
			exec sleep 1000`)
		s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}, {Name: "memory", MountPath: "/memory"}}
		needCPU(&s.Containers[0])
	}))
	c.await("writer", "running", isReady)
	// The log writer is not part of these tests.
	log := filepath.Join(c.node.LogDir("uid-writer", "main"), "0.log.20260101-000000")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, make([]byte, 6*mebi), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if disk, ok := c.pods.Disk("uid-writer"); ok {
			t.Logf("last figures: %+v", disk)
		}
	})
	for key, least := range map[usage.Key]uint64{
		{Kind: usage.Volume, Name: "disk"}: 1, {Kind: usage.Memory, Name: "memory"}: 2, {Kind: usage.Layer, Name: "main"}: 3,
		{Kind: usage.Files, Name: "etc"}: 4, {Kind: usage.Files, Name: "containers"}: 5, {Kind: usage.Logs, Name: "main"}: 6,
	} {
		runtimetest.Eventually(t, "the figure of "+key.Name, func() bool {
			disk, _ := c.pods.Disk("uid-writer")
			return disk.Trees[key].Bytes >= least*mebi
		})
	}
	runtimetest.Eventually(t, "the volume's inodes", func() bool {
		disk, _ := c.pods.Disk("uid-writer")
		return disk.Trees[usage.Key{Kind: usage.Volume, Name: "disk"}].Inodes == 4
	})
	disk, _ := c.pods.Disk("uid-writer")
	if total := disk.Total().Bytes; total < (1+3+4+5+6)*mebi {
		t.Errorf("the pod takes %d bytes", total)
	}
	c.deleteGracefully("writer", time.Second)
	runtimetest.Eventually(t, "the pod to be forgotten", func() bool { _, ok := c.pods.Disk("uid-writer"); return !ok })
}

package volume

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A volume in memory is as large as the least of its limit, its pod's memory and what pods may have of the node's: without one,
// a pod filled half of the host's memory.
func TestVolumesInMemoryAreBounded(t *testing.T) {
	const mebi = 1 << 20
	for _, test := range []struct{ limit, pod, node, want int64 }{
		{8 * mebi, 16 * mebi, 32 * mebi, 8 * mebi},
		{64 * mebi, 16 * mebi, 32 * mebi, 16 * mebi},
		{64 * mebi, 0, 32 * mebi, 32 * mebi},
		{0, 16 * mebi, 32 * mebi, 16 * mebi},
		{0, 0, 32 * mebi, 32 * mebi},
		{8 * mebi, 0, 0, 8 * mebi},
	} {
		v := testVolumes(t, &given{})
		v.allocatable = func() corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(test.node, resource.BinarySI)}
		}
		v.memoryLimit = func(*corev1.Pod) int64 { return test.pod }
		source := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
		if test.limit > 0 {
			source.SizeLimit = resource.NewQuantity(test.limit, resource.BinarySI)
		}
		paths, _, err := v.SetUp(context.Background(), podWith(corev1.Volume{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: source}}))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(paths["m"], &st); err != nil {
			t.Fatal(err)
		}
		if size := int64(st.Blocks) * st.Bsize; st.Type != unix.TMPFS_MAGIC || size != test.want {
			t.Errorf("%+v: the volume has %d bytes", test, size)
		}
	}
}

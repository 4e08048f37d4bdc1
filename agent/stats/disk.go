package stats

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skep-io/skep/agent/usage"
)

// Images is the disk of images and of containers' writable layers.
type Images struct {
	Dir  string
	Used *usage.Amount // by images; nil if unknown
}

// fsStats is the file system that holds a folder; nil if there is none.
func fsStats(dir string) *statsapi.FsStats {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	capacity, available, used := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - free
	return &statsapi.FsStats{
		Time: metav1.Now(), CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed,
	}
}

// usedOf describes a part of a file system: used is that of the part, the rest that of the whole,
// as with kubelet.
func usedOf(fs *statsapi.FsStats, at metav1.Time, used usage.Amount) *statsapi.FsStats {
	part := statsapi.FsStats{}
	if fs != nil {
		part = *fs
	}
	part.Time, part.UsedBytes, part.InodesUsed = at, &used.Bytes, &used.Inodes
	return &part
}

// disks are the node's file systems at one time.
type disks struct{ node, images *statsapi.FsStats }

// measureDisks measures both file systems. Values of images are missing if containerd does not
// answer.
func (c *Collector) measureDisks(ctx context.Context) (d disks, runtime *statsapi.RuntimeStats) {
	d.node = fsStats(c.dir)
	images := c.source.Images(ctx)
	if d.images = fsStats(images.Dir); d.images == nil {
		return d, nil
	}
	fs := *d.images
	if images.Used != nil {
		fs = *usedOf(&fs, fs.Time, *images.Used)
	}
	return d, &statsapi.RuntimeStats{ImageFs: &fs, ContainerFs: &fs}
}

// addDisk adds the pod's disk use, if it has been measured.
func (c *Collector) addDisk(out *statsapi.PodStats, d disks) {
	pod, ok := c.source.Disk(out.PodRef.UID)
	if !ok || pod.At.IsZero() {
		return
	}
	at := metav1.NewTime(pod.At)
	for i := range out.Containers {
		ctr := &out.Containers[i]
		if layer, ok := pod.Trees[usage.Key{Kind: usage.Layer, Name: ctr.Name}]; ok {
			ctr.Rootfs = usedOf(d.images, at, layer)
		}
		ctr.Logs = usedOf(d.node, at, pod.Trees[usage.Key{Kind: usage.Logs, Name: ctr.Name}])
	}
	keys := slices.SortedFunc(maps.Keys(pod.Trees), func(a, b usage.Key) int { return strings.Compare(a.Name, b.Name) })
	for _, key := range keys {
		fs := d.node
		switch key.Kind {
		case usage.Volume:
		case usage.Memory:
			room := pod.Rooms[key]
			used := pod.Trees[key]
			bytesFree, inodesFree := room.Bytes-min(used.Bytes, room.Bytes), room.Inodes-min(used.Inodes, room.Inodes)
			fs = &statsapi.FsStats{CapacityBytes: &room.Bytes, AvailableBytes: &bytesFree, Inodes: &room.Inodes, InodesFree: &inodesFree}
		default:
			continue
		}
		out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: key.Name, FsStats: *usedOf(fs, at, pod.Trees[key])})
	}
	out.EphemeralStorage = usedOf(d.node, at, pod.Total())
}

var logBytes = prometheus.NewDesc("kubelet_container_log_filesystem_used_bytes", "Bytes used by the container's logs on the filesystem.",
	[]string{"uid", "namespace", "pod", "container"}, nil)

// LogMetrics are the sizes of containers' logs, which kubelet has among its own metrics.
func (c *Collector) LogMetrics() prometheus.Collector { return logMetrics{c} }

type logMetrics struct{ c *Collector }

// Describe implements prometheus.Collector.
func (m logMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- logBytes }

// Collect implements prometheus.Collector.
func (m logMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, p := range m.c.source.Pods() {
		disk, ok := m.c.source.Disk(p.UID)
		if !ok {
			continue
		}
		for _, ctr := range p.Containers {
			used := disk.Trees[usage.Key{Kind: usage.Logs, Name: ctr.Name}]
			ch <- prometheus.MustNewConstMetric(logBytes, prometheus.GaugeValue, float64(used.Bytes), p.UID, p.Namespace, p.Name, ctr.Name)
		}
	}
}

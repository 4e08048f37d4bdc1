package stats

import (
	"context"
	"maps"
	"testing"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skep-io/skep/agent/usage"
)

func TestDiskUseIsReported(t *testing.T) {
	pod, container := realCgroup(t)
	measured := time.Now().Add(-7 * time.Second)
	source := &fixed{
		pods: []Pod{{Namespace: "ns", Name: "p", UID: "uid", CgroupPath: pod, Containers: []Container{{Name: "c", CgroupPath: container}}}},
		disk: map[string]usage.Pod{"uid": {
			At: measured,
			Trees: map[usage.Key]usage.Amount{
				{Kind: usage.Layer, Name: "c"}: {Bytes: 1000, Inodes: 1}, {Kind: usage.Logs, Name: "c"}: {Bytes: 200, Inodes: 2},
				{Kind: usage.Volume, Name: "v"}: {Bytes: 30, Inodes: 3}, {Kind: usage.Files, Name: "etc"}: {Bytes: 4, Inodes: 4},
				{Kind: usage.Memory, Name: "m"}: {Bytes: 5, Inodes: 5},
			},
			Rooms: map[usage.Key]usage.Amount{{Kind: usage.Memory, Name: "m"}: {Bytes: 50, Inodes: 25}},
		}},
		images: Images{Dir: "/tmp", Used: &usage.Amount{Bytes: 77, Inodes: 8}},
	}
	c := newCollector(t, source)
	s, err := c.Summary(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, fs *statsapi.FsStats, used, inodes uint64, of *statsapi.FsStats) {
		t.Helper()
		switch {
		case fs == nil:
			t.Errorf("%s: none", what)
		case value(fs.UsedBytes) != used || value(fs.InodesUsed) != inodes:
			t.Errorf("%s: %d bytes and %d inodes, want %d and %d", what, value(fs.UsedBytes), value(fs.InodesUsed), used, inodes)
		case value(fs.CapacityBytes) != value(of.CapacityBytes) || value(fs.Inodes) != value(of.Inodes) || value(fs.AvailableBytes) == 0 || value(fs.InodesFree) == 0:
			t.Errorf("%s: of %+v, want the disk's %+v", what, fs, of)
		}
	}
	node := fsStats("/")
	check("images", s.Node.Runtime.ImageFs, 77, 8, fsStats("/tmp"))
	check("node", s.Node.Fs, value(s.Node.Fs.UsedBytes), value(s.Node.Fs.InodesUsed), node)
	if len(s.Pods) != 1 || len(s.Pods[0].Containers) != 1 || len(s.Pods[0].VolumeStats) != 2 {
		t.Fatalf("summary has %+v", s.Pods)
	}
	p := s.Pods[0]
	check("writable layer", p.Containers[0].Rootfs, 1000, 1, fsStats("/tmp"))
	check("logs", p.Containers[0].Logs, 200, 2, node)
	check("pod", p.EphemeralStorage, 1234, 10, node)
	fifty, twentyFive := uint64(50), uint64(25)
	for _, v := range p.VolumeStats {
		if v.Name == "v" {
			check("volume", &v.FsStats, 30, 3, node)
		} else {
			check("volume in memory", &v.FsStats, 5, 5, &statsapi.FsStats{CapacityBytes: &fifty, Inodes: &twentyFive})
		}
		if v.Time.Unix() != measured.Unix() || v.PVCRef != nil {
			t.Errorf("volume %s: %+v", v.Name, v)
		}
	}
	for name, want := range map[string]map[string]float64{
		"kubelet_container_log_filesystem_used_bytes": {"c": 200},
		"container_fs_usage_bytes":                    {"c": 1200, "": 1234},
		"container_fs_limit_bytes":                    {"c": float64(value(fsStats("/tmp").CapacityBytes)), "": float64(value(node.CapacityBytes))},
	} {
		if got := byContainer(t, c, name); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	// Before the first measurement nothing is said, rather than that there is nothing.
	source.disk, source.images = nil, Images{}
	if s, err = c.Summary(context.Background()); err != nil {
		t.Fatal(err)
	}
	if p := s.Pods[0]; p.EphemeralStorage != nil || p.Containers[0].Rootfs != nil || p.Containers[0].Logs != nil || p.VolumeStats != nil || s.Node.Runtime != nil {
		t.Errorf("unmeasured: %+v, %+v", p, s.Node.Runtime)
	}
}

// byContainer are the values of a metric.
func byContainer(t *testing.T, c *Collector, name string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for _, m := range gather(t, c.Metrics(), c.LogMetrics())[name] {
		if labels := labelsOf(m); labels["pod"] != "" {
			values[labels["container"]] = m.GetGauge().GetValue()
		}
	}
	return values
}

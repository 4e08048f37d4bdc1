package pod_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/agent/stats"
	"github.com/skep-io/skep/agent/usage"
)

// nodePressure has the node's conditions, as the monitor sets them.
type nodePressure struct {
	mu  sync.Mutex
	now []corev1.NodeConditionType
}

func (p *nodePressure) set(list []corev1.NodeConditionType) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = list
}

func (p *nodePressure) get() []corev1.NodeConditionType {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Pods lists the pods to measure, as the agent does.
func (c *cluster) Pods() (list []stats.Pod) {
	for _, state := range c.pods.List() {
		p := stats.Pod{Namespace: state.Pod.Namespace, Name: state.Pod.Name, UID: string(state.Pod.UID)}
		for _, ctr := range state.Containers {
			if ctr.State == runtime.Running {
				p.CgroupPath = filepath.Dir(ctr.CgroupPath)
				p.Containers = append(p.Containers, stats.Container{Name: ctr.Name, CgroupPath: ctr.CgroupPath, StartedAt: ctr.StartedAt})
			}
		}
		if len(p.Containers) > 0 {
			list = append(list, p)
		}
	}
	return list
}

func (c *cluster) PodNetwork(string) (stats.Network, bool) { return stats.Network{}, false }
func (c *cluster) NodeNetwork() []stats.Network            { return nil }
func (c *cluster) Images(context.Context) stats.Images     { return stats.Images{} }
func (c *cluster) Disk(uid string) (usage.Pod, bool)       { return c.pods.Disk(uid) }

// watchPressure runs the monitor of a node that has so much memory and the file system of its pods' folder.
func (c *cluster) watchPressure(memory int64, thresholds string) {
	c.t.Helper()
	list, err := eviction.Parse(eviction.Settings{Hard: thresholds})
	if err != nil {
		c.t.Fatal(err)
	}
	measured, err := stats.New(stats.Config{NodeCgroup: c.node.Config.CgroupParent, Source: c})
	if err != nil {
		c.t.Fatal(err)
	}
	pressure := &nodePressure{}
	c.startWith(func(cfg *podConfig) { cfg.Pressure, cfg.DiskInterval = pressure.get, 100*time.Millisecond }, func() {})
	host, err := eviction.NewHost(eviction.HostConfig{
		Cgroup: c.node.Config.CgroupParent, PodsCgroup: c.node.Cgroups().Kubepods(), PodsMemory: memory,
		Capacity: eviction.Capacity{Memory: memory, Pids: 1000}, StateDir: filepath.Dir(c.node.PodDir("uid")),
		ImageFolder: c.node.ImageFolder, Usages: measured.Usages, Disk: c.pods.Disk,
		Pods: func() (list []*corev1.Pod) {
			for _, state := range c.pods.List() {
				if state.Status.Phase != corev1.PodFailed {
					list = append(list, state.Pod)
				}
			}
			return list
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	monitor := eviction.New(eviction.Config{
		Thresholds: list, Transition: 8 * time.Second, Node: host, Pods: c.pods, NodeName: testNode, Metrics: eviction.NewMetrics(),
		SetPressure: pressure.set, Reclaim: func(context.Context, eviction.Signal) error { return nil },
		Event: func(kind, reason, message string) { c.events.Event(nil, kind, reason, message) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = monitor.Run(ctx)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
		host.Close()
		measured.Close()
	})
}

func failed(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed }

// The pod that uses up the node's memory without requesting any is evicted, whatever the others use within their requests; the
// node accepts no more pods of its class for a while.
func TestMemoryHogIsEvicted(t *testing.T) {
	c := newCluster(t, nil)
	c.watchPressure(200<<20, "memory.available<100Mi")
	hold := func(bytes string) corev1.Container {
		return container("main", "(head -c "+bytes+" /dev/zero; sleep 1000) | tail -c "+bytes)
	}
	mib64 := map[corev1.ResourceName]string{"cpu": "100m", "memory": "64Mi"}
	c.create(newPod("guaranteed", func(s *corev1.PodSpec) {
		s.Containers[0] = hold("45000000")
		s.Containers[0].Resources = resources(mib64, mib64)
	}))
	c.create(newPod("burstable", func(s *corev1.PodSpec) { s.Containers[0].Resources = resources(mib64, nil) }))
	c.await("guaranteed", "ready", isReady)
	c.await("burstable", "ready", isReady)
	began := time.Now()
	c.create(newPod("hog", func(s *corev1.PodSpec) { s.Containers[0] = hold("120000000") }))
	p := c.await("hog", "eviction", failed)
	t.Logf("a hog was created, found and gone within %v", time.Since(began))
	if p.Status.Reason != "Evicted" || !strings.HasPrefix(p.Status.Message, "The node was low on resource: memory. Threshold quantity: 100Mi, available: ") ||
		!strings.Contains(p.Status.Message, "Container main was using ") || disruption(p) == nil {
		t.Errorf("the hog: %s: %q", describe(p), p.Status.Message)
	}
	c.create(newPod("next", nil))
	if p := c.await("next", "refused", failed); p.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("another pod without requests: %s: %q", describe(p), p.Status.Message)
	}
	runtimetest.Eventually(t, "the end of the pressure", func() bool {
		return c.hasEvent("Normal NodeHasSufficientMemory Node node1 status is now: NodeHasSufficientMemory")
	})
	c.create(newPod("later", nil))
	c.await("later", "ready", isReady)
	for _, name := range []string{"guaranteed", "burstable"} {
		if p := c.get(name); !isReady(p) || p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("%s: %s", name, describe(p))
		}
	}
	for _, event := range []string{
		"Normal NodeHasInsufficientMemory Node node1 status is now: NodeHasInsufficientMemory",
		"Warning EvictionThresholdMet Attempting to reclaim memory",
	} {
		c.awaitEvent(event)
	}
}

// The pod that fills the disk is evicted, and its data removed; one that writes what it requested stays.
func TestDiskFillerIsEvicted(t *testing.T) {
	c := newCluster(t, nil)
	pods := filepath.Dir(c.node.PodDir("uid"))
	if err := unix.Mkdir(pods, 0o711); err != nil && err != unix.EEXIST {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", pods, "tmpfs", 0, "size=32m,mode=711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pods, unix.MNT_DETACH) })
	c.watchPressure(1<<40, "nodefs.available<25%")
	writer := func(mib string, request string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			s.Containers[0] = container("main", "dd if=/dev/zero of=/data/file bs=1M count="+mib+"; sleep 1000")
			s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
			s.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			if request != "" {
				s.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(request)}
			}
		}
	}
	c.create(newPod("frugal", writer("10", "12Mi")))
	c.await("frugal", "ready", isReady)
	runtimetest.Eventually(t, "what it wrote to be measured", func() bool {
		disk, _ := c.pods.Disk("uid-frugal")
		return disk.Total().Bytes >= 10<<20
	})
	c.create(newPod("filler", writer("16", "")))
	p := c.await("filler", "eviction", failed)
	if p.Status.Reason != "Evicted" || !strings.HasPrefix(p.Status.Message, "The node was low on resource: ephemeral-storage. Threshold quantity: 8Mi, available: ") {
		t.Errorf("the filler: %s: %q", describe(p), p.Status.Message)
	}
	runtimetest.Eventually(t, "room on the disk", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(pods, &st) == nil && st.Bavail > st.Blocks/2
	})
	if p := c.get("frugal"); !isReady(p) {
		t.Errorf("who wrote what it requested: %s", describe(p))
	}
}

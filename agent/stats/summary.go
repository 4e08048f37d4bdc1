package stats

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Summary measures the node and its pods, in kubelet's form.
func (c *Collector) Summary(ctx context.Context) (*statsapi.Summary, error) {
	pods := c.source.Pods()
	disks, runtime := c.measureDisks(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.sample(ctx, pods); err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	s := &statsapi.Summary{Node: c.nodeStats(), Pods: make([]statsapi.PodStats, 0, len(pods))}
	s.Node.Fs, s.Node.Runtime = disks.node, runtime
	for _, p := range pods {
		if stats, ok := c.podStats(p); ok {
			c.addDisk(&stats, disks)
			s.Pods = append(s.Pods, stats)
		}
	}
	return s, nil
}

// Sampled is a container's or (Container empty) a pod's usage.
type Sampled struct {
	Pod       Pod
	Container string
	Usage     Usage
}

// Usages measures every pod and container.
func (c *Collector) Usages(ctx context.Context) []Sampled {
	pods := c.source.Pods()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tracked {
		t.seen = false
	}
	var all []Sampled
	add := func(p Pod, container, path string, started time.Time) {
		c.measure(path, started, true)
		if t := c.tracked[path]; t != nil {
			all = append(all, Sampled{p, container, t.now})
		}
	}
	for _, p := range pods {
		add(p, "", p.CgroupPath, p.StartedAt)
		for _, ctr := range p.Containers {
			add(p, ctr.Name, ctr.CgroupPath, ctr.StartedAt)
		}
	}
	return all
}

func (c *Collector) nodeStats() statsapi.NodeStats {
	n := statsapi.NodeStats{NodeName: c.node, StartTime: metav1.NewTime(c.startTime)}
	if t := c.tracked[c.cgroup]; t != nil {
		n.CPU, n.Memory, n.Swap = t.cpuStats(), t.memoryStats(), t.swapStats()
	}
	if c.cgroup == "/" {
		if m := hostMemory(); m != nil {
			n.Memory = m
		}
		n.Swap = hostSwap()
	} else if total, ok := meminfo("MemTotal"); ok && n.Memory != nil {
		available := total - min(total, *n.Memory.WorkingSetBytes)
		n.Memory.AvailableBytes = &available
	}
	if net := c.source.NodeNetwork(); len(net) > 0 {
		n.Network = networkStats(net)
	}
	return n
}

func (c *Collector) podStats(p Pod) (statsapi.PodStats, bool) {
	out := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		StartTime:  metav1.NewTime(p.StartedAt),
		Containers: make([]statsapi.ContainerStats, 0, len(p.Containers)),
	}
	for _, ctr := range p.Containers {
		t := c.tracked[ctr.CgroupPath]
		if t == nil {
			continue // it ended after it was listed
		}
		out.Containers = append(out.Containers, statsapi.ContainerStats{
			Name: ctr.Name, StartTime: metav1.NewTime(ctr.StartedAt), CPU: t.cpuStats(), Memory: t.memoryStats(), Swap: t.swapStats(),
		})
	}
	if t := c.tracked[p.CgroupPath]; t != nil {
		out.CPU, out.Memory, out.Swap = t.cpuStats(), t.memoryStats(), t.swapStats()
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: &t.now.Processes}
	}
	if net, ok := c.source.PodNetwork(p.UID); ok {
		out.Network = networkStats([]Network{net})
	}
	return out, len(out.Containers) > 0 || out.CPU != nil
}

func (t *tracked) cpuStats() *statsapi.CPUStats {
	total := t.now.CPU
	s := &statsapi.CPUStats{Time: metav1.NewTime(t.now.At), UsageCoreNanoSeconds: &total}
	if rate, ok := t.rate(); ok {
		s.UsageNanoCores = &rate
	}
	return s
}

func (t *tracked) memoryStats() *statsapi.MemoryStats {
	u := t.now
	return &statsapi.MemoryStats{
		Time: metav1.NewTime(u.At), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS,
		PageFaults: &u.PageFaults, MajorPageFaults: &u.MajorPageFaults,
	}
}

func (t *tracked) swapStats() *statsapi.SwapStats {
	u := t.now
	return &statsapi.SwapStats{Time: metav1.NewTime(u.At), SwapUsageBytes: &u.Swap}
}

// hostSwap is the swap of a whole host.
func hostSwap() *statsapi.SwapStats {
	total, ok := meminfo("SwapTotal")
	free, ok2 := meminfo("SwapFree")
	if !ok || !ok2 {
		return nil
	}
	used := total - min(total, free)
	return &statsapi.SwapStats{Time: metav1.Now(), SwapUsageBytes: &used, SwapAvailableBytes: &free}
}

func networkStats(all []Network) *statsapi.NetworkStats {
	s := &statsapi.NetworkStats{Time: metav1.Now()}
	for i := range all {
		n := &all[i]
		s.Interfaces = append(s.Interfaces, statsapi.InterfaceStats{
			Name: n.Interface, RxBytes: &n.RxBytes, RxErrors: &n.RxErrors, TxBytes: &n.TxBytes, TxErrors: &n.TxErrors,
		})
	}
	s.InterfaceStats = s.Interfaces[0]
	return s
}

// hostMemory is the memory of a whole host, whose root cgroup does not count it on every kernel.
func hostMemory() *statsapi.MemoryStats {
	total, ok := meminfo("MemTotal")
	free, ok2 := meminfo("MemFree")
	available, ok3 := meminfo("MemAvailable")
	anonymous, ok4 := meminfo("AnonPages")
	if !ok || !ok2 || !ok3 || !ok4 {
		return nil
	}
	usage, working := total-min(total, free), total-min(total, available)
	return &statsapi.MemoryStats{
		Time: metav1.Now(), UsageBytes: &usage, WorkingSetBytes: &working, AvailableBytes: &available, RSSBytes: &anonymous,
	}
}

func meminfo(name string) (uint64, bool) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == name+":" {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

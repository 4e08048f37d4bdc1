package agent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

// Pressure is how the node answers that it is short of something, beside the thresholds of its Reserves.
type Pressure struct {
	Transition  time.Duration // how long a condition is kept after its thresholds were last met
	MaxPodGrace time.Duration // of pods that go for a soft threshold
}

// nodeCgroup is the one in which all that counts as the node's lives.
func nodeCgroup(cfg Config) string {
	if wholeHost(cfg) {
		return "/" // the node is the whole host
	}
	return cfg.Cgroup
}

// watchPressure evicts pods when the node runs short of something.
func (p *parts) watchPressure(ctx context.Context, group *errgroup.Group) error {
	memory, pids := p.size.capacity[corev1.ResourceMemory], p.size.capacity[node.ResourcePIDs]
	host, err := eviction.NewHost(eviction.HostConfig{
		Cgroup: nodeCgroup(p.cfg), PodsCgroup: p.runtime.Cgroups().Kubepods(), PodsMemory: p.size.pods.Memory,
		Capacity: eviction.Capacity{Memory: memory.Value(), Pids: pids.Value()},
		StateDir: p.cfg.StateDir, ImageFolder: p.runtime.ImageFolder,
		Pods: p.activePods, Usages: p.stats.Usages, Disk: p.pods.Disk,
	})
	if err != nil {
		return err
	}
	monitor := eviction.New(eviction.Config{
		Thresholds: p.cfg.Reserves.Thresholds, Transition: p.cfg.Pressure.Transition, MaxPodGrace: p.cfg.Pressure.MaxPodGrace,
		Node: host, Pods: p.pods, NodeName: p.cfg.NodeName, Metrics: p.evictions, SetPressure: p.node.SetPressure,
		Event: func(kind, reason, message string) { p.recorder.Event(p.node.Reference(), kind, reason, message) },
		Reclaim: func(ctx context.Context, s eviction.Signal) error {
			if host.OwnImages() && (s == eviction.NodeFsAvailable || s == eviction.NodeFsInodesFree) {
				p.runtime.ForgetReplaced(true)
				return p.runtime.RemoveStrayLogs()
			}
			_, err := p.garbage.Reclaim(ctx)
			return err
		},
	})
	monitor.Measure(ctx)
	group.Go(func() error {
		defer host.Close()
		return monitor.Run(ctx)
	})
	return nil
}

// activePods are those that have not ended.
func (p *parts) activePods() (list []*corev1.Pod) {
	for _, state := range p.pods.List() {
		if phase := state.Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			list = append(list, state.Pod)
		}
	}
	return list
}

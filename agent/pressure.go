package agent

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/node"
)

// Pressure is how the node reacts when it is short of a resource, beside the thresholds of its Reserves.
type Pressure struct {
	Transition  time.Duration // how long a condition is kept after its thresholds were last met
	MaxPodGrace time.Duration // limit of the grace period of pods evicted for a soft threshold
}

// nodeCgroup is the cgroup of everything that counts as the node's.
func nodeCgroup(cfg Config) string {
	if wholeHost(cfg) {
		return "/" // the node is the whole host
	}
	return cfg.Cgroup
}

// pressure evicts pods when the node runs short of a resource.
type pressure struct {
	cfg        Config
	containers *containers
	membership *membership
	pods       *pods
	statistics *statistics

	metrics *eviction.Metrics
}

func newPressure(cfg Config, containers *containers, membership *membership, pods *pods, statistics *statistics) *pressure {
	return &pressure{cfg: cfg, containers: containers, membership: membership, pods: pods, statistics: statistics, metrics: eviction.NewMetrics()}
}

func (p *pressure) start(ctx context.Context, group *errgroup.Group) error {
	memory, pids := p.membership.size.capacity[corev1.ResourceMemory], p.membership.size.capacity[node.ResourcePIDs]
	host, err := eviction.NewHost(eviction.HostConfig{
		Cgroup: nodeCgroup(p.cfg), PodsCgroup: p.containers.runtime.Cgroups().Kubepods(), PodsMemory: p.membership.size.pods.Memory,
		Capacity: eviction.Capacity{Memory: memory.Value(), Pids: pids.Value()},
		StateDir: p.cfg.StateDir, ImageFolder: p.containers.runtime.ImageFolder,
		Pods: p.pods.active, Usages: p.statistics.collector.Usages, Disk: p.pods.workers.Disk,
	})
	if err != nil {
		return err
	}
	monitor := eviction.New(eviction.Config{
		Thresholds: p.cfg.Reserves.Thresholds, Transition: p.cfg.Pressure.Transition, MaxPodGrace: p.cfg.Pressure.MaxPodGrace,
		Node: host, Pods: p.pods.workers, NodeName: p.cfg.NodeName, Metrics: p.metrics, SetPressure: p.membership.node.SetPressure,
		Event: p.membership.event,
		Reclaim: func(ctx context.Context, s eviction.Signal) error {
			if host.OwnImages() && (s == eviction.NodeFsAvailable || s == eviction.NodeFsInodesFree) {
				p.containers.runtime.ForgetReplaced(true)
				return p.containers.runtime.RemoveStrayLogs()
			}
			_, err := p.pods.garbage.Reclaim(ctx)
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

func (p *pressure) stop() {}

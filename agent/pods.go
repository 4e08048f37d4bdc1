package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/garbage"
	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/sysctl"
)

// pods are the workers of this node's pods, and the garbage collector.
type pods struct {
	cfg        Config
	containers *containers
	membership *membership
	plane      *dataPlane
	watch      *clusterWatch
	adopted    chan<- struct{} // closed when adopted pods have their host ports again

	workers *pod.Pods
	garbage *garbage.Collector
}

func (p *pods) start(ctx context.Context, group *errgroup.Group) error {
	allowed, err := sysctl.NewAllowlist(p.cfg.AllowedUnsafeSysctls)
	if err != nil {
		return fmt.Errorf("--allowed-unsafe-sysctls: %w", err)
	}
	p.limit(ctx, group)
	dns, domain := p.membership.dns()
	memory := p.membership.size.capacity[corev1.ResourceMemory]
	p.workers = pod.New(pod.Config{
		Client: p.membership.client, NodeName: p.cfg.NodeName, NodeIPs: p.membership.nodeIPs,
		Runtime: p.containers.runtime, Network: p.plane.connector, Plane: p.plane.services,
		Endpoints: p.watch.services, HostPorts: p.watch.services, Adopted: sync.OnceFunc(func() { close(p.adopted) }),
		Recorder: p.membership.recorder,
		Services: p.watch.services.Lister(), ServicesSynced: p.watch.services.HasSynced,
		ClusterDNS: dns, ClusterDomain: domain, Allocatable: p.membership.node.Allocatable,
		Pressure: p.membership.node.Pressure, MemoryCapacity: memory.Value(), PodPidsLimit: p.membership.size.podPids, Sysctls: allowed,
	})
	group.Go(func() error { return p.workers.Run(ctx) })
	collect := p.cfg.Garbage
	collect.Runtime = p.containers.runtime
	collect.Event = p.membership.event
	p.garbage = garbage.New(collect)
	group.Go(func() error { return p.garbage.Run(ctx) })
	group.Go(func() error {
		select {
		case <-p.membership.removed:
			p.workers.Leave()
		case <-ctx.Done():
		}
		return nil
	})
	return nil
}

func (p *pods) stop() {}

// limit bounds what all pods use together. If adopted pods use more, it tries again until they use less or have ended.
func (p *pods) limit(ctx context.Context, group *errgroup.Group) {
	try := func() error {
		err := p.containers.runtime.Cgroups().LimitPods(p.membership.size.pods)
		if err != nil {
			slog.Warn("the limit of all pods together is not set; trying again in a minute", "err", err)
			p.membership.event(corev1.EventTypeWarning, "FailedNodeAllocatableEnforcement",
				fmt.Sprintf("Failed to update Node Allocatable Limits %q: %v", "kubepods", err))
		}
		return err
	}
	if try() == nil {
		return
	}
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Minute):
			}
			if try() == nil {
				p.membership.event(corev1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
				return nil
			}
		}
	})
}

// active are the pods that have not ended.
func (p *pods) active() (list []*corev1.Pod) {
	for _, state := range p.workers.List() {
		if phase := state.Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			list = append(list, state.Pod)
		}
	}
	return list
}

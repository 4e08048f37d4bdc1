package agent

import (
	"context"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/agent/server"
	"github.com/skep-io/skep/agent/traffic"
	skepv1 "github.com/skep-io/skep/api/v1"
)

// door is this node's HTTPS server, for requests of the API server.
type door struct {
	cfg        Config
	containers *containers
	membership *membership
	plane      *dataPlane
	watch      *clusterWatch
	pods       *pods
	statistics *statistics
	pressure   *pressure

	reachability *reachability

	server *server.Server
}

func (d *door) start(ctx context.Context, group *errgroup.Group) (err error) {
	process, containers, resources, probes := prometheus.NewRegistry(), prometheus.NewRegistry(), prometheus.NewRegistry(), prometheus.NewRegistry()
	counted := &traffic.Sources{Node: d.cfg.NodeName, Plane: d.plane.services, Path: d.plane.path, Census: d.plane.census, Log: d.plane.failures, Flows: d.plane.flows, Programming: d.watch.services.Programming}
	process.MustRegister(counted.Metrics(), d.pressure.metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	process.MustRegister(d.statistics.collector.LogMetrics(), d.watch.services.Metrics(), &podMetrics{node: d.cfg.NodeName, pods: d.pods.workers}, d.pods.workers.Metrics())
	probes.MustRegister(d.pods.workers.ProbeMetrics()...)
	if d.reachability.reach != nil {
		process.MustRegister(d.reachability.reach)
	}
	containers.MustRegister(d.statistics.collector.Metrics())
	resources.MustRegister(d.statistics.collector.ResourceMetrics())
	d.server, err = server.New(server.Config{
		Listen: netip.AddrPortFrom(d.membership.nodeIPs[0], Port).String(), TLS: d.membership.identity.ServerTLS(),
		Pods: d.pods.workers, Runtime: d.containers.runtime, Stats: d.statistics.collector, Traffic: counted, Metrics: process, Containers: containers, Resources: resources, Probes: probes,
		Verify: func(ctx context.Context) (*skepv1.Verification, error) {
			dump, err := d.plane.services.Dump()
			if err != nil {
				return nil, err
			}
			return d.watch.services.Verify(ctx, d.membership.client, dump)
		},
		Health: func() error {
			_, err := d.containers.version(ctx)
			return err
		},
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return d.server.Run(ctx) })
	return nil
}

func (d *door) stop() {}

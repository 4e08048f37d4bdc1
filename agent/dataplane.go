package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
)

// dataPlane is this node's part of the network: pods' interfaces and addresses, and the programs in the kernel.
type dataPlane struct {
	cfg        Config
	containers *containers
	membership *membership
	announcer  *announcer

	network   *podnet.Network
	services  *service.Plane
	marked    *marks // services, with the marks of nodes that are down
	flows     *flow.Flows
	connector *connector
	sweeper   *sockets.Sweeper
	census    *census.Census
	failures  *events.Log  // of connections
	addresses []netip.Addr // of this host, as last set in the service tables

	mu      sync.Mutex
	path    *podpath.Path
	uplinks []string // that packets from outside arrive at
}

// Folders of pins, in the one of the services' pins.
func flowPins(cfg Config) string { return filepath.Join(cfg.BPFDir, "flow") }
func pathPins(cfg Config) string { return filepath.Join(cfg.BPFDir, "path") }

// start attaches programs in this order: services, uplinks, pods' interfaces. Each adopts what an earlier agent
// pinned, so that connections are not interrupted.
func (p *dataPlane) start(ctx context.Context, group *errgroup.Group) (err error) {
	if err := mountBPF(p.cfg.BPFDir); err != nil {
		return err
	}
	root, err := cgroup2Root()
	if err != nil {
		return err
	}
	hooks := filepath.Join(root, p.cfg.HookCgroup)
	p.network, err = podnet.New(podnet.Config{
		PodCIDRs: p.membership.podCIDRs, NodeIPs: p.membership.nodeIPs, ClusterCIDRs: p.membership.ranges.known(), ServiceCIDRs: p.membership.network.ServiceCIDRs,
		UplinksChanged: p.uplinksChanged,
	})
	if err != nil {
		return err
	}
	p.services, err = service.Open(service.Options{PinDir: p.cfg.BPFDir, CgroupPath: hooks, Node: p.cfg.NodeName, Limits: p.cfg.Tables})
	if err != nil {
		return fmt.Errorf("service data plane: %w", err)
	}
	if err := p.openPaths(); err != nil {
		return err
	}
	p.sweeper, err = sockets.New(sockets.Options{Plane: p.services, CgroupPath: hooks, Namespaces: p.containers.runtime.NetNamespaces})
	if err != nil {
		return fmt.Errorf("sockets to removed backends: %w", err)
	}
	p.marked = newMarks(p.services, p.sweeper.NodeDown)
	p.census, err = census.New(census.Options{Plane: p.services, Flows: p.flows, CgroupPath: hooks})
	if err != nil {
		return fmt.Errorf("count of connections: %w", err)
	}
	if p.failures, err = events.Open(p.services, nil); err != nil {
		return err
	}
	p.membership.ranges.follow(p.setRanges)
	group.Go(func() error { p.failures.Run(ctx); return nil })
	group.Go(func() error { p.sweeper.Run(ctx); return nil })
	group.Go(func() error { p.census.Run(ctx); return nil })
	host := podnet.NewHostWatch()
	addresses, routes := host.Follow(), host.Follow()
	group.Go(func() error { followHost(ctx, addresses, p.lookAtHost); return nil })
	group.Go(func() error { p.network.Run(ctx, routes); return nil })
	group.Go(func() error { host.Run(ctx); return nil })
	group.Go(func() error { return p.announcer.run(ctx) })
	return nil
}

// setRanges takes over the ranges of all pods. The programs come first: they accept packets that are sent once there are routes.
func (p *dataPlane) setRanges(ranges []netip.Prefix) error {
	if err := p.path.SetClusterCIDRs(ranges); err != nil {
		return err
	}
	return p.network.SetClusterCIDRs(ranges)
}

// stop closes handles in the reverse order. Programs and maps stay.
func (p *dataPlane) stop() {
	for _, part := range []struct {
		name  string
		there bool
		close func() error
	}{
		{"events of connections", p.failures != nil, func() error { return p.failures.Close() }},
		{"count of connections", p.census != nil, func() error { return p.census.Close() }},
		{"sockets to removed backends", p.sweeper != nil, func() error { return p.sweeper.Close() }},
		{"pods' traffic", p.path != nil, func() error { return p.path.Close() }},
		{"traffic from outside", p.flows != nil, func() error { return p.flows.Close() }},
		{"service data plane", p.services != nil, func() error { return p.services.Close() }},
	} {
		if !part.there {
			continue
		}
		if err := part.close(); err != nil {
			slog.Error("part of the data plane not closed", "part", part.name, "err", err)
		}
	}
	if p.network != nil {
		p.network.Close()
	}
}

// openPaths attaches the packet programs.
func (p *dataPlane) openPaths() (err error) {
	uplinks, err := p.uplinkNames()
	if err != nil {
		return err
	}
	p.flows, err = flow.Open(flow.Options{
		PinDir: flowPins(p.cfg), Plane: p.services, Uplinks: uplinks, Overlays: p.network.Overlays(), NodeIPs: p.membership.nodeIPs,
		GenericXDP: p.cfg.GenericXDP, Limits: flow.Limits{Flows: p.cfg.Flows},
	})
	if err != nil {
		return fmt.Errorf("traffic from outside: %w", err)
	}
	p.announcer.use(p.flows)
	atUplinks, others := pathInterfaces(union(uplinks, p.network.Uplinks()))
	path, err := podpath.Open(podpath.Options{
		PinDir: pathPins(p.cfg), Plane: p.services, Flows: p.flows, Uplinks: atUplinks, Others: others,
		ClusterCIDRs: p.membership.ranges.known(), Clsact: p.cfg.Clsact,
	})
	if err != nil {
		return fmt.Errorf("pods' traffic: %w", err)
	}
	p.connector = &connector{network: p.network, path: path}
	p.mu.Lock()
	p.path, p.uplinks = path, uplinks
	p.mu.Unlock()
	p.connector.adopt()
	return nil
}

// lookAtHost updates the data plane after a change of the host's addresses or interfaces.
func (p *dataPlane) lookAtHost(changed podnet.HostChange) error {
	if changed.Addresses {
		now, err := localAddresses()
		if err != nil {
			return err
		}
		if p.addresses == nil || !slices.Equal(now, p.addresses) {
			p.services.SetAddresses(now)
			p.addresses = now
		}
	}
	if changed.Uplinks {
		return p.followUplinks()
	}
	return nil
}

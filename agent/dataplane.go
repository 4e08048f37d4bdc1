package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/agent/services"
	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
)

// Folders of pins below the one for services.
func flowPins(cfg Config) string { return filepath.Join(cfg.BPFDir, "flow") }
func pathPins(cfg Config) string { return filepath.Join(cfg.BPFDir, "path") }

// startDataPlane attaches programs from the inside out: services, what arrives at uplinks, what passes pods' interfaces. Each
// adopts what an earlier agent pinned, so that connections notice nothing.
func (p *parts) startDataPlane(ctx context.Context, group *errgroup.Group) (err error) {
	p.events = record.NewBroadcaster(record.WithContext(ctx))
	p.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.client.CoreV1().Events("")})
	p.recorder = p.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: p.cfg.NodeName})
	if err := mountBPF(p.cfg.BPFDir); err != nil {
		return err
	}
	root, err := cgroup2Root()
	if err != nil {
		return err
	}
	hooks := filepath.Join(root, p.cfg.HookCgroup)
	p.plane, err = service.Open(service.Options{PinDir: p.cfg.BPFDir, CgroupPath: hooks, Node: p.cfg.NodeName})
	if err != nil {
		return fmt.Errorf("service data plane: %w", err)
	}
	if err := p.openPaths(); err != nil {
		return err
	}
	p.sweeper, err = sockets.New(sockets.Options{Plane: p.plane, CgroupPath: hooks, Namespaces: p.runtime.NetNamespaces})
	if err != nil {
		return fmt.Errorf("sockets on backends that are gone: %w", err)
	}
	p.census, err = census.New(census.Options{Plane: p.plane, Flows: p.flows, CgroupPath: hooks})
	if err != nil {
		return fmt.Errorf("count of connections: %w", err)
	}
	if p.told, err = events.Open(p.plane, nil); err != nil {
		return err
	}
	group.Go(func() error { p.told.Run(ctx); return nil })
	group.Go(func() error { p.sweeper.Run(ctx); return nil })
	group.Go(func() error { p.census.Run(ctx); return nil })
	group.Go(func() error { return followHost(ctx, p.lookAtHost) })
	group.Go(func() error { return p.network.Run(ctx) })
	group.Go(func() error { return p.announcer.run(ctx) })
	return p.startWatcher(ctx, group)
}

// closeDataPlane gives back handles from the outside in. Programs and maps stay.
func (p *parts) closeDataPlane() {
	for _, part := range []struct {
		name  string
		there bool
		close func() error
	}{
		{"events of connections", p.told != nil, func() error { return p.told.Close() }},
		{"count of connections", p.census != nil, func() error { return p.census.Close() }},
		{"sockets on backends that are gone", p.sweeper != nil, func() error { return p.sweeper.Close() }},
		{"pods' traffic", p.path != nil, func() error { return p.path.Close() }},
		{"traffic from outside", p.flows != nil, func() error { return p.flows.Close() }},
		{"service data plane", p.plane != nil, func() error { return p.plane.Close() }},
	} {
		if !part.there {
			continue
		}
		if err := part.close(); err != nil {
			slog.Error("not closed", "part", part.name, "error", err)
		}
	}
}

// openPaths attaches the packet programs.
func (p *parts) openPaths() (err error) {
	uplinks, err := p.uplinkNames()
	if err != nil {
		return err
	}
	p.flows, err = flow.Open(flow.Options{
		PinDir: flowPins(p.cfg), Plane: p.plane, Uplinks: uplinks, Overlays: p.network.Overlays(), NodeIPs: p.cfg.NodeIPs,
		GenericXDP: p.cfg.GenericXDP,
	})
	if err != nil {
		return fmt.Errorf("traffic from outside: %w", err)
	}
	p.announcer.use(p.flows)
	atUplinks, others := pathInterfaces(union(uplinks, p.network.Uplinks()))
	path, err := podpath.Open(podpath.Options{
		PinDir: pathPins(p.cfg), Plane: p.plane, Flows: p.flows, Uplinks: atUplinks, Others: others,
		ClusterCIDRs: p.cfg.ClusterCIDRs, Clsact: p.cfg.Clsact,
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

// lookAtHost brings what has changed on the host to the data plane.
func (p *parts) lookAtHost(changed hostChange) error {
	if changed.addresses {
		now, err := localAddresses()
		if err != nil {
			return err
		}
		if p.addresses == nil || !slices.Equal(now, p.addresses) {
			p.plane.SetAddresses(now)
			p.addresses = now
		}
	}
	if changed.uplinks {
		return p.followUplinks()
	}
	return nil
}

func (p *parts) startWatcher(ctx context.Context, group *errgroup.Group) (err error) {
	p.factory = informers.NewSharedInformerFactory(p.client, 0)
	p.watcher, err = services.New(services.Config{
		Factory: p.factory, Node: p.cfg.NodeName, Plane: sweptPlane{p.plane, p.sweeper},
		Router:    &router{self: podpath.Node{Addrs: p.cfg.NodeIPs, PodCIDRs: p.podCIDRs, Own: true}, network: p.network, path: p.path},
		Announcer: p.announcer, Recorder: p.recorder, ServiceCIDRs: p.cfg.ServiceCIDRs, PodCIDRs: p.cfg.ClusterCIDRs, Adopted: p.adopted,
		OwnPorts: ownPorts(p.cfg), Listening: sockets.Listening,
	})
	if err != nil {
		return err
	}
	if err := p.observeSelf(); err != nil {
		return err
	}
	group.Go(func() error { return p.watcher.Run(ctx) })
	p.factory.StartWithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		p.factory.Shutdown()
		return nil
	})
	return nil
}

// sweptPlane has sockets closed that a node which went down leaves behind.
type sweptPlane struct {
	*service.Plane
	sweeper *sockets.Sweeper
}

func (s sweptPlane) SetNodeDown(node string, down bool) {
	s.Plane.SetNodeDown(node, down)
	if down {
		s.sweeper.NodeDown()
	}
}

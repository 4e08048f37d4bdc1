// Package agent is a node of the cluster: it puts together the parts that run pods, connect them, route services to them,
// measure them and report about them, and keeps them running in the order in which they need each other.
//
// It owns the order of start and the lock that keeps a second agent off the host. Stopping it stops no pod: containers,
// their logs, the network and the service tables live on without it, and the next agent takes them over.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/agent/eviction"
	"github.com/skep-io/skep/agent/garbage"
	"github.com/skep-io/skep/agent/logs"
	"github.com/skep-io/skep/agent/node"
	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/server"
	"github.com/skep-io/skep/agent/services"
	"github.com/skep-io/skep/agent/stats"
	"github.com/skep-io/skep/agent/sysctl"
	"github.com/skep-io/skep/agent/traffic"
	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
)

// Port is where the API server reaches agents.
const Port = 10250

// Config is all that an agent is told.
type Config struct {
	Server, Token string
	NodeName      string
	NodeIPs       []netip.Addr // of each family at most one, the primary first; those on the way to Server, if none is given
	Labels        map[string]string

	ContainerdAddress string // empty: a private containerd
	StateDir, RunDir  string
	Cgroup            string // path under the cgroup root below which pods live
	HookCgroup        string // path of the v2 cgroup whose sockets are translated; "/" for all of the host
	BPFDir            string // for pins

	Uplinks    []string // interfaces that packets from outside arrive at; those of NodeIPs and default routes, if none is given
	GenericXDP bool     // at uplinks, not the driver's own
	Clsact     bool     // at pods' interfaces, not tcx

	ClusterDNS                 []netip.Addr
	ClusterDomain              string
	ServiceCIDRs, ClusterCIDRs []netip.Prefix // of each family at most one

	Garbage garbage.Config // when images are collected
	// AllowedUnsafeSysctls are names and prefixes of kernel parameters that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string

	Reserves   Reserves
	Pressure   Pressure
	Version    string
	LogCommand []string // starts the process that writes containers' logs
	Ready      func()   // called when the node takes pods
}

// parts are what Run puts together.
type parts struct {
	cfg       Config
	client    kubernetes.Interface
	identity  *node.Identity
	node      *node.Node
	podCIDRs  []netip.Prefix
	logs      *logs.Logs
	runtime   *runtime.Runtime
	network   *podnet.Network
	plane     *service.Plane
	flows     *flow.Flows
	connector *connector
	sweeper   *sockets.Sweeper
	census    *census.Census
	told      *events.Log
	announcer *announcer
	watcher   *services.Watcher
	factory   informers.SharedInformerFactory
	pods      *pod.Pods
	garbage   *garbage.Collector
	stats     *stats.Collector
	evictions *eviction.Metrics
	size      size
	server    *server.Server
	events    record.EventBroadcaster
	recorder  record.EventRecorder
	started   chan struct{} // closed when all parts are up
	removed   chan struct{} // closed when the cluster has removed the node
	unknown   chan struct{} // has one when the cluster began not to know the node
	adopted   chan struct{} // closed when the pods that were here have their host ports again
	addresses []netip.Addr  // of this host, as last told to the plane

	tokenRefused atomic.Bool // joining anew with --token is of no use

	mu      sync.Mutex
	path    *podpath.Path
	uplinks []string // that packets from outside arrive at
}

// Run is the agent until ctx ends. It returns early only for what starting again, or the administrator, must put right.
func Run(ctx context.Context, cfg Config) error {
	if err := Check(cfg); err != nil {
		return err
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("agent's folder: %w", err)
		}
	}
	lock, err := lockHost(cfg.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if len(cfg.NodeIPs) == 0 {
		if cfg.NodeIPs, err = ownAddresses(cfg); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	p := &parts{cfg: cfg, started: make(chan struct{}), adopted: make(chan struct{}), removed: make(chan struct{}),
		unknown: make(chan struct{}, 1), announcer: &announcer{}, evictions: eviction.NewMetrics()}
	defer p.close()
	group.Go(func() error { return p.start(ctx, group) })
	err = group.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// start brings the parts up. Those that need nothing from outside come first, so that the pods that run here are adopted
// whether or not the API server answers.
func (p *parts) start(ctx context.Context, group *errgroup.Group) error {
	if err := p.adoptContainers(ctx, group); err != nil {
		return err
	}
	if err := p.joinCluster(ctx, group); err != nil {
		return err
	}
	if err := p.startDataPlane(ctx, group); err != nil {
		return err
	}
	if err := p.startPods(ctx, group); err != nil {
		return err
	}
	if err := p.startServer(ctx, group); err != nil {
		return err
	}
	if err := p.watchPressure(ctx, group); err != nil {
		return err
	}
	group.Go(func() error { return p.node.Run(ctx) })
	close(p.started)
	slog.Info("node is up", "node", p.cfg.NodeName, "addresses", p.cfg.NodeIPs, "version", p.cfg.Version)
	if p.cfg.Ready != nil {
		p.cfg.Ready()
	}
	return nil
}

func (p *parts) adoptContainers(ctx context.Context, group *errgroup.Group) (err error) {
	p.logs, err = logs.New(ctx, logs.Config{
		StateDir: p.cfg.StateDir, RunDir: p.cfg.RunDir, Command: p.cfg.LogCommand, Version: p.cfg.Version,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return p.logs.Run(ctx) })
	address := p.cfg.ContainerdAddress
	if address == "" {
		daemon, err := runtime.StartContainerd(ctx, containerdConfig(p.cfg))
		if err != nil {
			return err
		}
		group.Go(func() error { <-daemon.Done(); return nil })
		address = daemon.Address()
	}
	p.runtime, err = retry(ctx, "containerd", func() (*runtime.Runtime, error) {
		return runtime.Connect(ctx, address, runtime.Config{
			CgroupParent: p.cfg.Cgroup, StateDir: p.cfg.StateDir, RunDir: p.cfg.RunDir, Logs: p.logs,
		})
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return p.runtime.Run(ctx) })
	return nil
}

func containerdConfig(cfg Config) runtime.DaemonConfig {
	return runtime.DaemonConfig{
		Root: filepath.Join(cfg.StateDir, "containerd"), State: filepath.Join(cfg.RunDir, "containerd"),
	}
}

// retry waits for something outside the agent that is not there yet.
func retry[T any](ctx context.Context, what string, f func() (T, error)) (T, error) {
	for wait := backoff.New(200*time.Millisecond, 5*time.Second); ; {
		v, err := f()
		if err == nil || ctx.Err() != nil {
			return v, err
		}
		slog.Warn("waiting for "+what, "error", err)
		if err := wait.Wait(ctx); err != nil {
			return v, err
		}
	}
}

// joinCluster makes the host a node. A host that was one before starts with the pod range that it had, and hears from the API
// server when that answers.
func (p *parts) joinCluster(ctx context.Context, group *errgroup.Group) (err error) {
	p.identity, err = node.OpenIdentity(ctx, node.IdentityConfig{
		Server: p.cfg.Server, Token: p.cfg.Token, NodeName: p.cfg.NodeName, StateDir: p.cfg.StateDir,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return p.identity.Run(ctx) })
	if p.client, err = newClient(p.cfg, p.identity); err != nil {
		return err
	}
	if p.size, err = measure(p.cfg, p.runtime.Cgroups()); err != nil {
		return err
	}
	known, ok := readPodCIDRs(p.cfg)
	p.node, err = node.New(node.Config{
		Client: p.client, Name: p.cfg.NodeName, IPs: p.cfg.NodeIPs, Labels: p.cfg.Labels, StateDir: p.cfg.StateDir,
		Version: p.cfg.Version, RuntimeVersion: p.runtimeVersion, Images: p.images, Handlers: p.handlers, Port: Port,
		Capacity: p.size.capacity, Allocatable: p.size.allocatable,
		Removed: func() { close(p.removed) }, Renewed: p.announcer.renewed,
		Unknown: func() {
			select {
			case p.unknown <- struct{}{}:
			default: // it is being asked for
			}
		},
	})
	if err != nil {
		return err
	}
	if !ok {
		known, err = p.register(ctx)
		if err != nil {
			return err
		}
		if err := writePodCIDRs(p.cfg, known); err != nil {
			return err
		}
	}
	p.podCIDRs = known
	group.Go(func() error { return p.follow(ctx, ok) })
	if ok {
		if err := p.renewWhileStarting(ctx, group); err != nil {
			return err
		}
	}
	p.network, err = podnet.New(podnet.Config{
		PodCIDRs: known, NodeIPs: p.cfg.NodeIPs, ClusterCIDRs: p.cfg.ClusterCIDRs, ServiceCIDRs: p.cfg.ServiceCIDRs,
		UplinksChanged: p.uplinksChanged,
	})
	return err
}

// observeSelf lets the node know what the cluster thinks of it.
func (p *parts) observeSelf() error {
	observe := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok {
			p.node.Observe(n)
		}
	}
	_, err := p.factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: observe, UpdateFunc: func(_, obj any) { observe(obj) },
	})
	return err
}

func (p *parts) startPods(ctx context.Context, group *errgroup.Group) error {
	allowed, err := sysctl.NewAllowlist(p.cfg.AllowedUnsafeSysctls)
	if err != nil {
		return fmt.Errorf("--allowed-unsafe-sysctls: %w", err)
	}
	p.limitPods(ctx, group)
	memory := p.size.capacity[corev1.ResourceMemory]
	p.pods = pod.New(pod.Config{
		Client: p.client, NodeName: p.cfg.NodeName, NodeIPs: p.cfg.NodeIPs,
		Runtime: p.runtime, Network: p.connector, Plane: p.plane,
		Endpoints: p.watcher, HostPorts: p.watcher, Adopted: sync.OnceFunc(func() { close(p.adopted) }),
		Recorder: p.recorder,
		Services: p.watcher.Lister(), ServicesSynced: p.watcher.HasSynced,
		ClusterDNS: p.cfg.ClusterDNS, ClusterDomain: p.cfg.ClusterDomain, Allocatable: p.node.Allocatable,
		Pressure: p.node.Pressure, MemoryCapacity: memory.Value(), PodPidsLimit: p.size.podPids, Sysctls: allowed,
	})
	group.Go(func() error { return p.pods.Run(ctx) })
	collect := p.cfg.Garbage
	collect.Runtime = p.runtime
	collect.Event = func(kind, reason, message string) { p.recorder.Event(p.node.Reference(), kind, reason, message) }
	p.garbage = garbage.New(collect)
	group.Go(func() error { return p.garbage.Run(ctx) })
	group.Go(func() error {
		select {
		case <-p.removed:
			p.pods.Leave()
		case <-ctx.Done():
		}
		return nil
	})
	return nil
}

func (p *parts) startServer(ctx context.Context, group *errgroup.Group) (err error) {
	p.stats, err = stats.New(stats.Config{
		NodeName: p.cfg.NodeName, NodeCgroup: nodeCgroup(p.cfg), StateDir: p.cfg.StateDir, StartTime: time.Now(),
		Source: &measured{p: p},
	})
	if err != nil {
		return err
	}
	process, containers := prometheus.NewRegistry(), prometheus.NewRegistry()
	counted := &traffic.Sources{Node: p.cfg.NodeName, Plane: p.plane, Path: p.path, Census: p.census, Log: p.told, Flows: p.flows}
	process.MustRegister(counted.Metrics(), p.evictions, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	process.MustRegister(p.stats.LogMetrics())
	containers.MustRegister(p.stats.Metrics())
	p.server, err = server.New(server.Config{
		Listen: netip.AddrPortFrom(p.cfg.NodeIPs[0], Port).String(), TLS: p.identity.ServerTLS(),
		Pods: p.pods, Runtime: p.runtime, Stats: p.stats, Traffic: counted, Metrics: process, Containers: containers,
		Verify: func(ctx context.Context) (*skepv1.Verification, error) {
			dump, err := p.plane.Dump()
			if err != nil {
				return nil, err
			}
			return p.watcher.Verify(ctx, p.client, dump)
		},
		Health: func() error {
			_, err := p.runtimeVersion(ctx)
			return err
		},
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return p.server.Run(ctx) })
	return nil
}

// close gives back what the process holds, after everything that runs has ended. Pods notice nothing.
func (p *parts) close() {
	if p.events != nil {
		p.events.Shutdown()
	}
	if p.stats != nil {
		p.stats.Close()
	}
	p.closeDataPlane()
	if p.network != nil {
		p.network.Close()
	}
	if p.runtime != nil {
		if err := p.runtime.Close(); err != nil {
			slog.Error("connection to containerd not closed", "error", err)
		}
	}
}

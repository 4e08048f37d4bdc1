// Package agent is a node of the cluster: it assembles the parts that run pods, connect them, route services to them,
// measure them and report about them, and keeps them running in the order in which they need each other.
//
// It owns the order of start and the lock that keeps a second agent off the host. Stopping it stops no pod: containers,
// their logs, the network and the service tables live on without it, and the next agent adopts them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/agent/garbage"
	"github.com/skep-io/skep/dataplane/service"
)

// Port is where the API server reaches agents.
const Port = 10250

// Config configures an agent.
type Config struct {
	Server, Token string
	NodeName      string
	NodeIPs       []netip.Addr // at most one of each family, the primary first; if none is given, those on the route to Server
	Labels        map[string]string

	ContainerdAddress string // empty: a private containerd
	StateDir, RunDir  string
	Cgroup            string // path under the cgroup root below which pods live
	HookCgroup        string // path of the v2 cgroup whose sockets are translated; "/" for all of the host
	BPFDir            string // for pins

	Uplinks    []string // interfaces that packets from outside arrive at; if none is given, those of NodeIPs and default routes
	GenericXDP bool     // at uplinks, instead of the driver's own
	Clsact     bool     // at pods' interfaces, instead of tcx
	WatchHosts bool     // take part in finding hosts that cannot be reached

	ClusterDNS                 []netip.Addr   // as the API server says, if none is given
	ClusterDomain              string         // as the API server says, if none is given
	ServiceCIDRs, ClusterCIDRs []netip.Prefix // if given, they must be the cluster's

	Tables  service.Limits // sizes of the service tables; 0: the default
	Flows   uint32         // size of the table of connections that packet programs translate; 0: the default
	Garbage garbage.Config // when images are collected
	// AllowedUnsafeSysctls are names and prefixes of kernel parameters that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string

	Reserves   Reserves
	Pressure   Pressure
	Version    string
	LogCommand []string // starts the process that writes containers' logs
	Ready      func()   // called when the node accepts pods
}

// A component is one part of the agent. Its fields name the components that it needs, which start before it.
type component interface {
	// start brings the component up and adds what has to run until ctx ends to the group.
	start(ctx context.Context, group *errgroup.Group) error
	// stop releases what the process holds, after everything in the group has ended. It is also called if start failed or was
	// never called. Pods are not affected.
	stop()
}

// newComponents returns the parts in the order in which they need each other. Those that need nothing from outside come first, so
// that the pods that run here are adopted whether or not the API server answers.
func newComponents(cfg Config, started <-chan struct{}) []component {
	announcer, adopted := &announcer{}, make(chan struct{})
	containers := &containers{cfg: cfg}
	membership := newMembership(cfg, containers, announcer, started)
	plane := &dataPlane{cfg: cfg, containers: containers, membership: membership, announcer: announcer}
	watch := &clusterWatch{cfg: cfg, membership: membership, plane: plane, adopted: adopted}
	reachability := &reachability{cfg: cfg, membership: membership, plane: plane, watch: watch}
	pods := &pods{cfg: cfg, containers: containers, membership: membership, plane: plane, watch: watch, adopted: adopted}
	statistics := &statistics{cfg: cfg, containers: containers, membership: membership, plane: plane, pods: pods}
	pressure := newPressure(cfg, containers, membership, pods, statistics)
	door := &door{cfg: cfg, containers: containers, membership: membership, plane: plane, watch: watch, pods: pods, statistics: statistics, pressure: pressure, reachability: reachability}
	return []component{containers, membership, plane, watch, reachability, pods, statistics, door, pressure, &report{membership}}
}

// Run runs the agent until ctx ends. It returns early only for an error that a restart, or the administrator, must correct.
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
	started := make(chan struct{})
	components := newComponents(cfg, started)
	defer func() {
		for _, c := range slices.Backward(components) {
			c.stop()
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, c := range components {
			if err := c.start(ctx, group); err != nil {
				return err
			}
		}
		close(started)
		slog.Info("node is up", "node", cfg.NodeName, "version", cfg.Version)
		if cfg.Ready != nil {
			cfg.Ready()
		}
		return nil
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

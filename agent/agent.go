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

// Config is all that an agent is given.
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

	ClusterDNS                 []netip.Addr   // as the API server says, if none is given
	ClusterDomain              string         // as the API server says, if none is given
	ServiceCIDRs, ClusterCIDRs []netip.Prefix // if given, they must be the cluster's

	Tables  service.Limits // sizes of the service tables; 0: the default
	Flows   uint32         // connections by packets that a node remembers; 0: the default
	Garbage garbage.Config // when images are collected
	// AllowedUnsafeSysctls are names and prefixes of kernel parameters that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string

	Reserves   Reserves
	Pressure   Pressure
	Version    string
	LogCommand []string // starts the process that writes containers' logs
	Ready      func()   // called when the node accepts pods
}

// A component is one part of the agent. Its fields name the components that it needs, which are before it in the order of start.
type component interface {
	// start brings the component up and adds what has to run until ctx ends to the group.
	start(ctx context.Context, group *errgroup.Group) error
	// stop gives back what the process holds, after everything in the group has ended; also of a start that failed or never was.
	// Pods notice nothing.
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
	pods := &pods{cfg: cfg, containers: containers, membership: membership, plane: plane, watch: watch, adopted: adopted}
	statistics := &statistics{cfg: cfg, containers: containers, membership: membership, plane: plane, pods: pods}
	pressure := newPressure(cfg, containers, membership, pods, statistics)
	door := &door{cfg: cfg, containers: containers, membership: membership, plane: plane, watch: watch, pods: pods, statistics: statistics, pressure: pressure}
	return []component{containers, membership, plane, watch, pods, statistics, door, pressure, &report{membership}}
}

// Run is the agent until ctx ends. It returns early only for what starting again, or the administrator, must correct.
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

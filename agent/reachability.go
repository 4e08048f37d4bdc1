package agent

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/agent/reach"
	"github.com/skep-io/skep/dataplane/flow"
)

// reachability takes nodes that cannot be reached out of the service maps before the control plane does.
type reachability struct {
	cfg        Config
	membership *membership
	plane      *dataPlane
	watch      *clusterWatch

	reach *reach.Reach // nil: not wanted, or skepd is older
}

func (r *reachability) start(ctx context.Context, group *errgroup.Group) error {
	if !r.cfg.WatchHosts {
		group.Go(func() error { return reach.Withdraw(ctx, r.watch.factory, r.membership.client, r.cfg.NodeName) })
		return nil
	}
	secret := r.membership.network.ProbeKey
	if len(secret) == 0 {
		slog.Warn("the API server has given no key for probes, since it is older than this agent: nodes that cannot be reached leave the service maps when their leases expire")
		return nil
	}
	if len(secret) != flow.ProbeKeySize {
		return fmt.Errorf("the API server has given a key for probes of %d bytes, want %d", len(secret), flow.ProbeKeySize)
	}
	key := flow.ProbeKey(secret)
	if err := r.plane.flows.SetProbeKey(key); err != nil {
		return err
	}
	var err error
	r.reach, err = reach.New(reach.Config{
		Node: r.cfg.NodeName, Addrs: r.membership.nodeIPs, Key: key, StateDir: r.cfg.StateDir,
		Factory: r.watch.factory, Client: r.membership.client, Eject: r.plane.marked.SetNodeUnreachable,
	})
	if err != nil {
		return fmt.Errorf("watch over other nodes: %w", err)
	}
	group.Go(func() error { return r.reach.Run(ctx) })
	return nil
}

func (r *reachability) stop() {}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/skep-io/skep/agent/node"
)

// unknownRetry is how often a node that the cluster does not know asks whether it is known again.
const unknownRetry = 30 * time.Second

// follow confirms the membership of a node that was one before, now if it has only been read from the disk, and whenever the cluster
// says that it does not know the node.
func (p *parts) follow(ctx context.Context, now bool) error {
	for {
		if !now {
			select {
			case <-ctx.Done():
				return nil
			case <-p.unknown:
			}
		}
		now = false
		if err := p.confirm(ctx); err != nil {
			return err
		}
	}
}

// confirm registers a node that was one before. One that was removed meanwhile, and has no token to join with, stays up to end its
// pods in order; one that the cluster does not know stays up with its pods as they are.
func (p *parts) confirm(ctx context.Context) error {
	for {
		now, err := p.register(ctx)
		var refused *node.RefusedError
		switch {
		case errors.As(err, &refused) && refused.Removed:
			return nil
		case errors.As(err, &refused) && refused.Unknown:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(unknownRetry):
				continue
			}
		case err != nil:
			return err
		}
		return p.keepRanges(now)
	}
}

// register registers the node. A host whose node was removed, or is not known, joins anew if it has been given a token that counts.
func (p *parts) register(ctx context.Context) ([]netip.Prefix, error) {
	ranges, err := p.node.Register(ctx)
	var refused *node.RefusedError
	if !errors.As(err, &refused) || !refused.Removed && !refused.Unknown || p.cfg.Token == "" || p.tokenRefused.Load() {
		return ranges, err
	}
	if joinErr := p.identity.JoinAnew(ctx); joinErr != nil {
		if errors.As(joinErr, &refused) && !refused.Removed {
			p.tokenRefused.Store(true)
			slog.Error("the node cannot join again with the --token that it has", "node", p.cfg.NodeName, "err", joinErr)
			return nil, err
		}
		return nil, joinErr
	}
	return nil, fmt.Errorf("node %s has joined anew: starting again with its new certificate", p.cfg.NodeName)
}

// keepRanges compares the pod ranges that the node has been given with those that it works with. If they are others (the node
// has joined anew meanwhile), its pods are of no use any more: the agent starts again with the new ones.
func (p *parts) keepRanges(now []netip.Prefix) error {
	if slices.Equal(now, p.podCIDRs) {
		return nil
	}
	if err := writePodCIDRs(p.cfg, now); err != nil {
		return err
	}
	return fmt.Errorf("this node's pod ranges are %s now, were %s: starting again", now, p.podCIDRs)
}

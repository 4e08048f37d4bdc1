package podnet

import (
	"context"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/backoff"
)

const (
	// settleTime is how long changes of the host are gathered before the routes to other nodes' pods are checked.
	settleTime = 100 * time.Millisecond
	// Routes that could not be repaired are tried again after this time, though nothing has changed.
	repairFirst = time.Second
	repairMax   = 30 * time.Second
)

// Run repairs the routes to other nodes' pods whenever the host's own links, addresses or routes change, until ctx ends: the kernel drops
// routes with the link or the address that they depend on, and restores none of them. It changes no route before the first
// SyncRoutes.
func (n *Network) Run(ctx context.Context, changes *HostChanges) {
	wait := backoff.New(repairFirst, repairMax)
	for {
		change, err := changes.Next(ctx, settleTime)
		if err != nil {
			return
		}
		if !change.Routes {
			continue
		}
		err = n.repairRoutes()
		switch {
		case err == nil && wait.Failing():
			n.log.Info("routes to other nodes' pods are repaired")
		case err != nil && !wait.Failing():
			n.log.Error("pods of other nodes are not reachable", "err", err)
		}
		if err == nil {
			wait.Reset()
			continue
		}
		changes.Again(change, wait.Next())
	}
}

// silentAfter is how long netlink may give no answer before that is logged.
const silentAfter = 2 * time.Minute

func (n *Network) repairRoutes() error {
	silent := time.AfterFunc(silentAfter, func() {
		n.log.Error("the kernel does not answer by netlink: routes to other nodes' pods stay as they are", "since", silentAfter)
	})
	defer silent.Stop()
	n.routes.Lock()
	defer n.routes.Unlock()
	if err := n.followUplinks(); err != nil {
		return err
	}
	if n.peers == nil {
		return nil
	}
	return n.syncRoutes()
}

// followUplinks enables forwarding of packets for pods at an interface that has become an uplink. It is called with routes held.
func (n *Network) followUplinks() error {
	before := n.uplinks
	n.uplinks = nil
	if err := n.findUplinks(); err != nil {
		n.uplinks = before
		return err
	}
	same := func(a, b netlink.Link) bool { return a.Attrs().Index == b.Attrs().Index }
	if slices.EqualFunc(before, n.uplinks, same) {
		return nil
	}
	if err := n.prepareForwarding(); err != nil {
		return err
	}
	n.reportUplinks()
	return nil
}

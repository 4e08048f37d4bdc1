package podnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settleTime is how long the host's changes are let come in before the ways are looked at again: one `ip link set up` is many.
const settleTime = 100 * time.Millisecond

// Run puts the ways to peers right whenever the host's own links, addresses or routes change, until ctx ends: the kernel drops
// routes with the link or the address that they depend on, and brings none of them back. It touches no route before the first
// SyncRoutes.
func (n *Network) Run(ctx context.Context) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch the host's links: %w", err)
	}
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.watch(ctx, s, changed)
	}()
	defer func() {
		s.Close()
		<-done
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
		}
		select {
		case <-changed: // it is seen by what follows
		default:
		}
		if err := n.repairRoutes(); err != nil {
			n.log.Error("pods of other nodes are not reachable", "err", err)
		}
	}
}

// silentAfter is when a kernel that gives no answer by netlink is spoken of.
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

// followUplinks lets packets for pods in at an interface that has become an uplink. It is called with routes held.
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

// watch ends when the socket is closed. Messages that the kernel had no room for are changes too.
func (n *Network) watch(ctx context.Context, s *nl.NetlinkSocket, changed chan<- struct{}) {
	for {
		messages, _, err := s.Receive()
		if ctx.Err() != nil || err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		relevant := err != nil
		for _, m := range messages {
			relevant = relevant || isForeign(m)
		}
		if relevant {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// isForeign leaves out what this package changes itself, so that coming and going pods cause no work.
func isForeign(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return false
		}
		route := nl.DeserializeRtMsg(m.Data)
		if m.Header.Type == unix.RTM_NEWROUTE && route.Protocol == uint8(RouteProtocol) {
			return false
		}
		return route.Table == unix.RT_TABLE_MAIN && !isPodRoute(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfInfomsg:])
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME && isHostInterface(unix.ByteSliceToString(a.Value)) {
				return false
			}
		}
		return err == nil
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	}
	return false
}

// isPodRoute tells routes to single addresses, which go with their pods.
func isPodRoute(m syscall.NetlinkMessage) bool {
	route := nl.DeserializeRtMsg(m.Data)
	full := uint8(32)
	if route.Family == unix.AF_INET6 {
		full = 128
	}
	return route.Protocol == uint8(RouteProtocol) && route.Dst_len == full
}

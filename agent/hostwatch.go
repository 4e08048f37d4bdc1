package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/podnet"
)

// hostSettle is how long changes are let come in before the host is looked at: one `ip addr` is several messages.
const hostSettle = 10 * time.Millisecond

// hostChange is what may have changed since the host was last looked at.
type hostChange struct {
	addresses bool
	uplinks   bool // which interfaces are uplinks, or one of them
}

func (c hostChange) and(o hostChange) hostChange {
	return hostChange{c.addresses || o.addresses, c.uplinks || o.uplinks}
}

// followHost has look called now and whenever the kernel tells of a change, until ctx ends. What look fails at is looked at again
// a second later.
func followHost(ctx context.Context, look func(hostChange) error) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch this host's interfaces: %w", err)
	}
	changes := make(chan hostChange)
	done := make(chan struct{})
	go func() {
		defer close(done)
		readChanges(ctx, s, changes)
	}()
	defer func() {
		s.Close()
		<-done
	}()
	var asked kernel
	pending := hostChange{addresses: true, uplinks: true}
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("watch this host's interfaces: the kernel ended it")
		case c := <-changes:
			pending = pending.and(c)
			settled.Reset(hostSettle)
		case <-settled.C:
			err := asked.ask(ctx, "the kernel's answer about this host's interfaces (netlink)", kernelWithin, func() error { return look(pending) })
			if err != nil {
				slog.Error("this host's interfaces are looked at again", "err", err)
				settled.Reset(time.Second)
				continue
			}
			pending = hostChange{}
		}
	}
}

// readChanges ends when ctx does or the socket is closed. Messages that the kernel had no room for are changes of anything.
func readChanges(ctx context.Context, s *nl.NetlinkSocket, changes chan<- hostChange) {
	for {
		messages, _, err := s.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		c := hostChange{addresses: err != nil, uplinks: err != nil}
		for _, m := range messages {
			c = c.and(changeOf(m))
		}
		if c == (hostChange{}) {
			continue
		}
		select {
		case changes <- c:
		case <-ctx.Done():
			return
		}
	}
}

// changeOf passes over what pods' comings and goings and routes to other nodes cause: they are many.
func changeOf(m syscall.NetlinkMessage) hostChange {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		concerned := addressOf(m).IsGlobalUnicast()
		return hostChange{addresses: concerned, uplinks: concerned}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return hostChange{uplinks: !strings.HasPrefix(nameOf(m), podnet.OwnPrefix)}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return hostChange{}
		}
		route := nl.DeserializeRtMsg(m.Data)
		return hostChange{uplinks: route.Dst_len == 0 && route.Table == unix.RT_TABLE_MAIN && route.Type == unix.RTN_UNICAST}
	}
	return hostChange{}
}

func addressOf(m syscall.NetlinkMessage) (addr netip.Addr) {
	for _, a := range attributesOf(m, unix.SizeofIfAddrmsg) {
		// Both are there on links between two hosts; the local one is this host's, and comes last.
		if a.Attr.Type == unix.IFA_ADDRESS || a.Attr.Type == unix.IFA_LOCAL {
			addr, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return addr
}

func nameOf(m syscall.NetlinkMessage) string {
	for _, a := range attributesOf(m, unix.SizeofIfInfomsg) {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return unix.ByteSliceToString(a.Value)
		}
	}
	return ""
}

func attributesOf(m syscall.NetlinkMessage, header int) []syscall.NetlinkRouteAttr {
	if len(m.Data) < header {
		return nil
	}
	attributes, err := nl.ParseRouteAttr(m.Data[header:])
	if err != nil {
		return nil
	}
	return attributes
}

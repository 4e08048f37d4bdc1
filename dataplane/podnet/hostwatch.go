package podnet

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/backoff"
)

// HostWatch follows interfaces, addresses and routes of the host: one netlink subscription for all its readers.
type HostWatch struct {
	subscribe func() (*nl.NetlinkSocket, error)
	mu        sync.Mutex
	followers []*HostChanges
}

// NewHostWatch makes a watch that Run begins.
func NewHostWatch() *HostWatch { return &HostWatch{subscribe: subscribeHost} }

func subscribeHost() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
}

// Follow returns the changes for one reader. The first, when Run begins, says that anything may have changed.
func (w *HostWatch) Follow() *HostChanges {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &HostChanges{wake: make(chan struct{}, 1)}
	w.followers = append(w.followers, c)
	return c
}

// HostChange is what may have changed since the last one.
type HostChange struct {
	Addresses bool // those of this host that others reach
	Uplinks   bool // which interfaces are uplinks, or one of them
	Routes    bool // what routes to other nodes' pods depend on, or one of them
}

var anyHostChange = HostChange{Addresses: true, Uplinks: true, Routes: true}

func (c HostChange) and(o HostChange) HostChange {
	return HostChange{c.Addresses || o.Addresses, c.Uplinks || o.Uplinks, c.Routes || o.Routes}
}

// HostChanges are those that one reader has not received yet.
type HostChanges struct {
	wake    chan struct{}
	mu      sync.Mutex
	pending HostChange
}

// Next waits for a change and for settle, since one `ip` command is many messages, and returns all that have come. It returns
// ctx's error if that ends first.
func (c *HostChanges) Next(ctx context.Context, settle time.Duration) (HostChange, error) {
	select {
	case <-ctx.Done():
		return HostChange{}, ctx.Err()
	case <-c.wake:
	}
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return HostChange{}, ctx.Err()
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.pending
	c.pending = HostChange{}
	return all, nil
}

// Again has Next return a change once more after a time, when its handling failed.
func (c *HostChanges) Again(change HostChange, after time.Duration) {
	time.AfterFunc(after, func() { c.add(change) })
}

func (c *HostChanges) add(change HostChange) {
	if change == (HostChange{}) {
		return
	}
	c.mu.Lock()
	c.pending = c.pending.and(change)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (w *HostWatch) add(change HostChange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.followers {
		c.add(change)
	}
}

const (
	subscribeFirst = 10 * time.Millisecond
	subscribeMax   = time.Second
	// calmFor is how long a subscription lasts before its end is logged anew.
	calmFor = 10 * time.Second
)

// Run follows the host until ctx ends, in the network namespace of the calling thread. When messages were lost, since the kernel
// had no room for them (ENOBUFS), or the socket fails, it subscribes again, and then anything may have changed. The same holds while
// the kernel refuses the subscription: readers scan the host each time that it is tried.
func (w *HostWatch) Run(ctx context.Context) {
	wait := backoff.New(subscribeFirst, subscribeMax)
	for ctx.Err() == nil {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > calmFor {
			wait.Reset()
		}
		if !wait.Failing() {
			slog.Warn("changes of this host's interfaces may have been missed; subscribing again and reading all of them", "err", err)
		}
		_ = wait.Wait(ctx) // the loop ends with ctx
	}
}

func (w *HostWatch) follow(ctx context.Context) error {
	s, err := w.subscribe()
	w.add(anyHostChange)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		messages, _, err := s.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			w.add(changeOf(m))
		}
	}
}

// changeOf ignores the many changes that pods being added and removed, and new routes to other nodes, cause.
func changeOf(m syscall.NetlinkMessage) HostChange {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		reached := addressOf(m).IsGlobalUnicast()
		return HostChange{Addresses: reached, Uplinks: reached, Routes: true}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		name := nameOf(m)
		return HostChange{Uplinks: !strings.HasPrefix(name, OwnPrefix), Routes: !isHostInterface(name)}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return HostChange{}
		}
		route := nl.DeserializeRtMsg(m.Data)
		if route.Table != unix.RT_TABLE_MAIN {
			return HostChange{}
		}
		made := m.Header.Type == unix.RTM_NEWROUTE && route.Protocol == uint8(RouteProtocol)
		return HostChange{Uplinks: route.Dst_len == 0 && route.Type == unix.RTN_UNICAST, Routes: !made && !isPodRoute(route)}
	}
	return HostChange{}
}

// isPodRoute recognises routes to single addresses, which are removed with their pods.
func isPodRoute(route *nl.RtMsg) bool {
	full := uint8(32)
	if route.Family == unix.AF_INET6 {
		full = 128
	}
	return route.Protocol == uint8(RouteProtocol) && route.Dst_len == full
}

func addressOf(m syscall.NetlinkMessage) (addr netip.Addr) {
	for _, a := range attributesOf(m, unix.SizeofIfAddrmsg) {
		// Links between two hosts have both; the local one is this host's, and comes last.
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

package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestRoutesComeBackWithTheLink(t *testing.T) {
	f := newFabric(t, 2)
	n := f.network(t, 0)
	host := f.hosts[0]
	ctx, cancel := context.WithCancel(t.Context())
	watch := NewHostWatch()
	changes := watch.Follow()
	var running sync.WaitGroup
	for _, run := range []func(){func() { watch.Run(ctx) }, func() { n.Run(ctx, changes) }} {
		running.Go(func() {
			if err := host.Try(func() error { run(); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	defer running.Wait()
	defer cancel()
	host.Do(func() error { return n.SyncRoutes([]Peer{f.peer(1)}) })
	updates, stop := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	defer close(stop)
	host.Do(func() error { return netlink.RouteSubscribe(updates, stop) })
	host.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		six := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(f.nodeIP6(0), 64)), Flags: unix.IFA_F_NODAD}
		return errors.Join(netlink.LinkSetDown(eth), netlink.LinkSetUp(eth), netlink.AddrReplace(eth, six))
	})
	for range 2 { // the two families in any order
		awaitAny(t, updates, podRanges(1))
	}
	host.Do(func() error {
		table, err := n.readTable()
		for i, cidr := range podRanges(1) {
			if via := table.own[cidr].via; via != f.peer(1).NodeIPs[i] {
				t.Errorf("the way to %s leads through %s", cidr, via)
			}
		}
		return err
	})
}

// awaitAny returns when a route of Skep's to one of the prefixes appears.
func awaitAny(t *testing.T, updates <-chan netlink.RouteUpdate, cidrs []netip.Prefix) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case u := <-updates:
			got, ok := destination(u.Route)
			if ok && u.Type == unix.RTM_NEWROUTE && u.Protocol == RouteProtocol && slices.Contains(cidrs, got) {
				return
			}
		case <-late:
			t.Fatalf("no route of ours to any of %v came", cidrs)
		}
	}
}

func TestPodsComingAndGoingCauseNoWork(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	host := f.hosts[0]
	foreign := make(chan string, 1024)
	closed := make(chan struct{})
	mark := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Gw: netip.MustParseAddr("192.0.2.1").AsSlice()}
	awaitSettledAddresses(t, host)
	var socket *nl.NetlinkSocket
	host.Do(func() (err error) {
		socket, err = subscribeHost()
		return err
	})
	defer socket.Close()
	go func() {
		defer close(closed)
		for {
			messages, _, err := socket.Receive()
			if err != nil {
				return
			}
			for _, m := range messages {
				if !changeOf(m).Routes {
					continue
				}
				if bytes.Contains(m.Data, mark.Dst.IP.To4()) {
					return
				}
				foreign <- fmt.Sprintf("type %d: %x", m.Header.Type, m.Data)
			}
		}
	}()
	pod := newNamespace(t)
	f.attach(t, n, 0, "pod", pod)
	host.Do(func() error { return errors.Join(n.Detach("pod"), netlink.RouteAdd(mark)) })
	<-closed
	close(foreign)
	for m := range foreign {
		t.Errorf("taken for a change of the host's: %s", m)
	}
}

// awaitSettledAddresses returns when the kernel has ended duplicate address detection on the host's interfaces, which it
// announces as a change of each address.
func awaitSettledAddresses(t *testing.T, host *namespace) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		tentative := 0
		host.Do(func() error {
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
			for _, a := range addrs {
				if a.Flags&unix.IFA_F_TENTATIVE != 0 {
					tentative++
				}
			}
			return err
		})
		if tentative == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d addresses are still tentative", tentative)
		}
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// podSide begins the names of interfaces that lead to pods or carry packets between nodes: addresses there are nobody's to ask
// for.
const podSide = "skep"

// addressesSettle is how long changes are let come in before the list is read again: one `ip addr` is several messages.
const addressesSettle = 10 * time.Millisecond

// followAddresses tells this host's addresses now and whenever they change, until ctx ends.
func followAddresses(ctx context.Context, tell func([]netip.Addr)) error {
	for ctx.Err() == nil {
		if err := watchAddresses(ctx, tell); err != nil {
			slog.Warn("this host's addresses are read again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// watchAddresses ends with an error when the kernel had no room for its messages.
func watchAddresses(ctx context.Context, tell func([]netip.Addr)) error {
	done := make(chan struct{})
	updates := make(chan netlink.AddrUpdate, 64)
	failed := make(chan error, 1)
	if err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: func(err error) {
		select {
		case failed <- err:
		default:
		}
	}}); err != nil {
		close(done)
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer func() {
		close(done)
		for range updates { // the library's goroutine must not wait for us
		}
	}()
	var last []netip.Addr
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("watch addresses: %w", err)
		case _, open := <-updates:
			if !open {
				return errors.New("watch addresses: the kernel ended it")
			}
			settled.Reset(addressesSettle)
		case <-settled.C:
			now, err := localAddresses()
			if err != nil {
				return err
			}
			if last == nil || !slices.Equal(now, last) {
				tell(now)
				last = now
			}
		}
	}
}

// localAddresses are those that clients may ask for: neither pods' ends nor such that mean another host on every link.
func localAddresses() ([]netip.Addr, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	ours := map[int]bool{}
	for _, link := range links {
		ours[link.Attrs().Index] = strings.HasPrefix(link.Attrs().Name, podSide)
	}
	addrs := []netip.Addr{}
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if ok && !ours[a.LinkIndex] && addr.IsGlobalUnicast() && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}

// findUplinks are the interfaces that have this node's addresses, and those that default routes use: what comes from outside
// arrives there.
func findUplinks(nodeIPs []netip.Addr) ([]string, error) {
	var names []string
	add := func(index int) error {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("uplink %d: %w", index, err)
		}
		if name := link.Attrs().Name; link.Attrs().Flags&net.FlagLoopback == 0 && !strings.HasPrefix(name, podSide) && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && slices.Contains(nodeIPs, addr.Unmap()) {
			if err := add(a.LinkIndex); err != nil {
				return nil, err
			}
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !isDefault(r) {
			continue
		}
		for _, index := range nextHops(r) {
			if err := add(index); err != nil {
				return nil, err
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no interface has an address of this node (%v) or a default route: name those that packets from outside arrive at with --uplink", nodeIPs)
	}
	return names, nil
}

func isDefault(r netlink.Route) bool {
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

func nextHops(r netlink.Route) (links []int) {
	if r.LinkIndex > 0 {
		links = append(links, r.LinkIndex)
	}
	for _, hop := range r.MultiPath {
		links = append(links, hop.LinkIndex)
	}
	return links
}

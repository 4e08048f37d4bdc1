// Package fabrictest makes hosts, pods and the world outside on one machine, as network namespaces with the real pod network,
// service maps and pod path, for tests and benchmarks of the data plane.
//
// It owns what it makes and removes it when the test ends. It is never part of a program.
package fabrictest

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

// Namespace is a network namespace of the test's own.
type Namespace = sandbox.Namespace

// wire joins two namespaces by a pair of interfaces.
func wire(a *Namespace, nameA string, b *Namespace, nameB string, mtu int) {
	a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = nameA, mtu
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(b.FD())})
		if err != nil {
			return err
		}
		return up(nameA)
	})
	b.Do(func() error { return up(nameB) })
}

func up(name string, cidrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	failed := []error{netlink.LinkSetUp(link)}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		failed = append(failed, netlink.AddrAdd(link, addr))
	}
	return errors.Join(failed...)
}

func routeVia(gateways ...string) error {
	var failed []error
	for _, gateway := range gateways {
		failed = append(failed, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
	}
	return errors.Join(failed...)
}

// awaitUp waits until the kernel has noticed that the namespace's links have a carrier: until then, up to a second, it drops
// what is sent.
func awaitUp(ns *Namespace) {
	ns.Do(func() error {
		updates, stop := make(chan netlink.LinkUpdate), make(chan struct{})
		defer close(stop)
		options := netlink.LinkSubscribeOptions{ListExisting: true}
		if err := netlink.LinkSubscribeWithOptions(updates, stop, options); err != nil {
			return err
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		waiting := map[int]string{}
		for _, l := range links {
			if l.Type() == "veth" || l.Type() == "bridge" {
				waiting[l.Attrs().Index] = l.Attrs().Name
			}
		}
		late := time.After(Deadline)
		for len(waiting) > 0 {
			select {
			case u := <-updates:
				if u.Attrs().OperState == netlink.OperUp {
					delete(waiting, u.Attrs().Index)
				}
			case <-late:
				return fmt.Errorf("links never came up: %v", waiting)
			}
		}
		return nil
	})
}

// Package fabrictest makes hosts, pods and the world outside on one machine, as network namespaces with the real pod network,
// service maps and pod path, for tests and benchmarks of the data plane.
//
// It owns what it makes and takes it away when the test ends. It is never part of a program.
package fabrictest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Threads of other namespaces end with their goroutine; the main thread cannot end, so it must never become one.
func init() { runtime.LockOSThread() }

// Namespace is a network namespace pinned in the test's own folder.
type Namespace struct {
	Path string
	tb   testing.TB
}

// NewNamespace makes one whose loopback is up.
func NewNamespace(tb testing.TB, name string) *Namespace {
	tb.Helper()
	ns := &Namespace{Path: filepath.Join(tb.TempDir(), name), tb: tb}
	if err := os.WriteFile(ns.Path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare (root is needed): %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, ns.Path, "", unix.MS_BIND, "")
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", ns.Path, err)
		}
	})
	ns.Do(func() error {
		// Addresses that are unique by construction need not be asked after for two seconds.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
		return up("lo")
	})
	return ns
}

func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with f
		done <- f()
	}()
	return <-done
}

// Do runs f in the namespace and fails the test if it returns an error.
func (ns *Namespace) Do(f func() error) {
	ns.tb.Helper()
	if err := ns.Try(f); err != nil {
		ns.tb.Fatal(err)
	}
}

// Try runs f in the namespace.
func (ns *Namespace) Try(f func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// wire joins two namespaces by a pair of interfaces.
func wire(a *Namespace, nameA string, b *Namespace, nameB string, mtu int) {
	a.tb.Helper()
	inner, err := os.Open(b.Path)
	if err != nil {
		a.tb.Fatal(err)
	}
	defer inner.Close()
	a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = nameA, mtu
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(inner.Fd()))})
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
func (ns *Namespace) awaitUp() {
	ns.tb.Helper()
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

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, which ends with the test and its last socket.
type Namespace struct {
	Path string // for this process
	tb   testing.TB
	file *os.File
}

// Host is the network namespace of the test process.
func Host(tb testing.TB) *Namespace {
	tb.Helper()
	file, err := os.Open("/proc/self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	return namespace(tb, file)
}

// NewNamespace makes one whose loopback is up.
func NewNamespace(tb testing.TB) *Namespace {
	tb.Helper()
	var file *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (root is needed): %w", err)
		}
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		// Addresses that are unique by construction need no duplicate address detection, which takes two seconds.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return namespace(tb, file)
}

func namespace(tb testing.TB, file *os.File) *Namespace {
	tb.Cleanup(func() { file.Close() })
	return &Namespace{Path: fmt.Sprintf("/proc/self/fd/%d", file.Fd()), tb: tb, file: file}
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Do runs f on a thread of its own inside the namespace and fails the test if it returns an error. The sockets that f makes
// belong to the namespace, wherever they are used.
func (n *Namespace) Do(f func() error) {
	n.tb.Helper()
	if err := n.Try(f); err != nil {
		n.tb.Fatal(err)
	}
}

// Try is Do that returns the error, for any goroutine.
func (n *Namespace) Try(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// FD is the namespace's descriptor, for netlink.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Loopback brings lo of the calling thread's namespace up, with fd00::1 to fd00::9 beside all of 127.0.0.0/8.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	failed := []error{netlink.LinkSetUp(lo)}
	for i := 1; i <= 9; i++ {
		ip := net.ParseIP(fmt.Sprintf("fd00::%d", i))
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
		failed = append(failed, netlink.AddrReplace(lo, addr))
	}
	return errors.Join(failed...)
}

package podnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace pinned in the test's own folder.
type namespace struct{ path string }

func newNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	ns := &namespace{path: filepath.Join(t.TempDir(), name)}
	if err := os.WriteFile(ns.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare (the tests need root): %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, ns.path, "", unix.MS_BIND, "")
	})
	t.Cleanup(func() { ns.remove(t) })
	ns.do(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

func (ns *namespace) remove(t *testing.T) {
	if err := unix.Unmount(ns.path, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		t.Errorf("unmount %s: %v", ns.path, err)
	}
}

// onThread runs f on a thread of its own, which ends with f, so that a changed namespace spoils no other goroutine.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (ns *namespace) do(t *testing.T, f func() error) {
	t.Helper()
	onThread(t, func() error { return ns.enter(f) })
}

func (ns *namespace) enter(f func() error) error {
	fd, err := unix.Open(ns.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	return f()
}

// greet listens in the namespace and tells every caller the address that it sees it at.
func (ns *namespace) greet(t *testing.T, addr string) (port uint16) {
	t.Helper()
	var listener net.Listener
	ns.do(t, func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(addr, "0"))
		return err
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String())
			c.Close()
		}
	}()
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

// call connects from the namespace and returns what the greeter saw.
func (ns *namespace) call(t *testing.T, to netip.AddrPort) (string, error) {
	t.Helper()
	var seen []byte
	var failure error
	ns.do(t, func() error {
		c, err := net.DialTimeout("tcp4", to.String(), 5*time.Second)
		if err != nil {
			failure = err
			return nil
		}
		defer c.Close()
		seen, failure = io.ReadAll(c)
		return nil
	})
	return string(seen), failure
}

func (ns *namespace) mustCall(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	seen, err := ns.call(t, to)
	if err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	return seen
}

const fabricMTU = 1400

// fabric is a network of hosts on one bridge, whose owner is also their router to a namespace outside.
//
//	hosts 192.0.2.11, .12, ... -- bridge 192.0.2.1, 203.0.113.1 -- 203.0.113.9 far
type fabric struct {
	bridge, far *namespace
	hosts       []*namespace
}

func newFabric(t *testing.T, hosts int) *fabric {
	t.Helper()
	f := &fabric{bridge: newNamespace(t, "bridge"), far: newNamespace(t, "far")}
	f.bridge.do(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		if err := addressed("br0", "192.0.2.1/24"); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	f.wire(t, f.far, "far", "203.0.113.9/24", "203.0.113.1")
	f.bridge.do(t, func() error { return addressed("far", "203.0.113.1/24") })
	for i := range hosts {
		host := newNamespace(t, fmt.Sprintf("host%d", i+1))
		f.wire(t, host, fmt.Sprintf("host%d", i+1), fmt.Sprintf("192.0.2.%d/24", 11+i), "192.0.2.1")
		f.bridge.do(t, func() error {
			port, err := netlink.LinkByName(fmt.Sprintf("host%d", i+1))
			if err != nil {
				return err
			}
			br, err := netlink.LinkByName("br0")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(port, br); err != nil {
				return err
			}
			return netlink.LinkSetUp(port)
		})
		f.hosts = append(f.hosts, host)
	}
	return f
}

// wire joins ns to the bridge's namespace, where the other end is called port.
func (f *fabric) wire(t *testing.T, ns *namespace, port, addr, gateway string) {
	t.Helper()
	inner, err := os.Open(ns.path)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	f.bridge.do(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = port, fabricMTU
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerMTU: fabricMTU, PeerNamespace: netlink.NsFd(int(inner.Fd()))})
	})
	ns.do(t, func() error {
		if err := addressed("eth0", addr); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
	})
}

func addressed(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func (f *fabric) config(host int) Config {
	return Config{
		PodCIDR:     podRange(host),
		NodeIP:      nodeIP(host),
		ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	}
}

func podRange(host int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(host + 1), 0}), 24)
}

func nodeIP(host int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + host)}) }

// network starts the pod network of a host, as a process would.
func (f *fabric) network(t *testing.T, host int) *Network {
	t.Helper()
	var n *Network
	f.hosts[host].do(t, func() (err error) {
		n, err = New(f.config(host))
		return err
	})
	t.Cleanup(n.Close)
	return n
}

func (f *fabric) attach(t *testing.T, n *Network, host int, podID string, pod *namespace) Attachment {
	t.Helper()
	var a Attachment
	f.hosts[host].do(t, func() (err error) {
		a, err = n.Attach(podID, pod.path)
		return err
	})
	return a
}

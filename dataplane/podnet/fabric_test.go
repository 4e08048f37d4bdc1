package podnet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

type namespace struct{ *sandbox.Namespace }

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	return &namespace{sandbox.NewNamespace(t)}
}

// greet listens in the namespace and sends every caller the address that it sees it at.
func (ns *namespace) greet(t *testing.T, addr string) (port uint16) {
	t.Helper()
	var listener net.Listener
	ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
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
	ns.Do(func() error {
		c, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
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

// fabric is a network of hosts on one bridge, whose owner is also their router to a namespace outside and to hosts that are
// not on the bridge. All have addresses of both families.
//
//	hosts 192.0.2.11, .12, ...      -- bridge 192.0.2.1    \
//	routed hosts 198.51.K.3       -- port 198.51.K.1      -- one namespace that routes
//	far 203.0.113.9              -- port 203.0.113.1      /
type fabric struct {
	bridge, far *namespace
	hosts       []*namespace
	onBridge    int // hosts after these are routed
}

func newFabric(t *testing.T, onBridge int) *fabric { return newRoutedFabric(t, onBridge, 0) }

func newRoutedFabric(t *testing.T, onBridge, routed int) *fabric {
	t.Helper()
	f := &fabric{bridge: newNamespace(t), far: newNamespace(t), onBridge: onBridge}
	f.bridge.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		return errors.Join(
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}),
			addressed("br0", "192.0.2.1/24", "2001:db8:2::1/64"),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	f.wire(t, f.far, "far", []string{"203.0.113.9/24", "2001:db8:9::9/64"}, []string{"203.0.113.1/24", "2001:db8:9::1/64"})
	for i := range onBridge + routed {
		name := fmt.Sprintf("host%d", i+1)
		host := newNamespace(t)
		f.hosts = append(f.hosts, host)
		addrs := []string{f.nodeIP(i).String() + "/24", f.nodeIP6(i).String() + "/64"}
		if i >= onBridge {
			f.wire(t, host, name, addrs, []string{
				netip.PrefixFrom(f.nodeIP(i).Prev().Prev(), 24).String(), netip.PrefixFrom(f.nodeIP6(i).Prev().Prev(), 64).String()})
			continue
		}
		f.wire(t, host, name, addrs, nil)
	}
	return f
}

// wire joins ns to the routing namespace, where the other end is called port: with addresses, or on the bridge.
func (f *fabric) wire(t *testing.T, ns *namespace, port string, addrs, portAddrs []string) {
	t.Helper()
	f.bridge.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = port, fabricMTU
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerMTU: fabricMTU, PeerNamespace: netlink.NsFd(ns.FD())})
		if err != nil || len(portAddrs) > 0 {
			return errors.Join(err, addressed(port, portAddrs...))
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, br), netlink.LinkSetUp(link))
	})
	gateways := []string{"192.0.2.1", "2001:db8:2::1"}
	for i, addr := range portAddrs {
		gateways[i] = netip.MustParsePrefix(addr).Addr().String()
	}
	ns.Do(func() error {
		if err := addressed("eth0", addrs...); err != nil {
			return err
		}
		for _, gateway := range gateways {
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func addressed(name string, cidrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return nil
}

func (f *fabric) config(host int) Config {
	return Config{
		PodCIDRs:     podRanges(host),
		NodeIPs:      []netip.Addr{f.nodeIP(host), f.nodeIP6(host)},
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		ServiceCIDRs: prefixes("10.96.0.0/16", "fd00:10:96::/112"),
	}
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, text := range list {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func podRanges(host int) []netip.Prefix {
	return prefixes(fmt.Sprintf("10.244.%d.0/24", host+1), fmt.Sprintf("fd00:10:244:%d::/64", host+1))
}

// nodeIP is the second address after the router's, so that Prev().Prev() is the router.
func (f *fabric) nodeIP(host int) netip.Addr {
	if host >= f.onBridge {
		return netip.AddrFrom4([4]byte{198, 51, byte(100 + host), 3})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + host)})
}

func (f *fabric) nodeIP6(host int) netip.Addr {
	if host >= f.onBridge {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::3", 100+host))
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%d", 11+host))
}

func (f *fabric) peer(host int) Peer {
	return Peer{Name: fmt.Sprint("node", host+1), NodeIPs: []netip.Addr{f.nodeIP(host), f.nodeIP6(host)}, PodCIDRs: podRanges(host)}
}

// network starts the pod network of a host, as a process would.
func (f *fabric) network(t *testing.T, host int) *Network {
	t.Helper()
	return f.start(t, host, f.config(host))
}

func (f *fabric) start(t *testing.T, host int, cfg Config) *Network {
	t.Helper()
	var n *Network
	f.hosts[host].Do(func() (err error) {
		n, err = New(cfg)
		return err
	})
	t.Cleanup(n.Close)
	return n
}

func (f *fabric) attach(t *testing.T, n *Network, host int, podID string, pod *namespace) Attachment {
	t.Helper()
	return f.attachLimited(t, n, host, podID, pod, Bandwidth{})
}

func (f *fabric) attachLimited(t *testing.T, n *Network, host int, podID string, pod *namespace, limits Bandwidth) Attachment {
	t.Helper()
	var a Attachment
	f.hosts[host].Do(func() (err error) {
		a, err = n.Attach(podID, pod.Path, limits)
		return err
	})
	return a
}

// join makes every network known to all the others.
func (f *fabric) join(t *testing.T, networks ...*Network) {
	t.Helper()
	for host, n := range networks {
		var peers []Peer
		for other := range networks {
			if other != host {
				peers = append(peers, f.peer(other))
			}
		}
		f.hosts[host].Do(func() error { return n.SyncRoutes(peers) })
	}
}

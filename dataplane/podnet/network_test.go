package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPodsReachEachOtherAcrossHostsWithTheirOwnAddresses(t *testing.T) {
	f := newFabric(t, 2)
	networks := []*Network{f.network(t, 0), f.network(t, 1)}
	pods := map[string]*namespace{}
	addrs := map[string][]netip.Addr{}
	for host, n := range networks {
		for _, name := range []string{"a", "b"} {
			id := fmt.Sprintf("%s%d", name, host)
			pods[id] = newNamespace(t)
			addrs[id] = f.attach(t, n, host, id, pods[id]).Addrs
		}
	}
	f.join(t, networks...)
	for _, to := range []string{"a0", "b0", "a1", "b1"} {
		for family, addr := range addrs[to] {
			target := netip.AddrPortFrom(addr, pods[to].greet(t, addr.String()))
			for from := range pods {
				if got := pods[from].mustCall(t, target); got != addrs[from][family].String() {
					t.Errorf("%s saw %s at %s, want its own address %s", to, from, got, addrs[from][family])
				}
			}
			host := int(to[1] - '0')
			for _, caller := range []int{host, 1 - host} {
				want := []netip.Addr{f.nodeIP(caller), f.nodeIP6(caller)}[family].String()
				if got := f.hosts[caller].mustCall(t, target); got != want {
					t.Errorf("%s saw host %d at %s, want %s", to, caller, got, want)
				}
			}
		}
	}
}

func TestPodsLeaveTheClusterWithTheHostsAddress(t *testing.T) {
	f := newFabric(t, 2)
	n := f.network(t, 0)
	f.join(t, n, f.network(t, 1))
	pod := newNamespace(t)
	a := f.attach(t, n, 0, "pod", pod)
	for outside, want := range map[string]string{"203.0.113.9": f.nodeIP(0).String(), "2001:db8:9::9": f.nodeIP6(0).String()} {
		port := f.far.greet(t, outside)
		if got := pod.mustCall(t, netip.AddrPortFrom(netip.MustParseAddr(outside), port)); got != want {
			t.Errorf("outside saw the pod at %s, want the host's %s", got, want)
		}
	}
	for family, node := range []netip.Addr{f.nodeIP(1), f.nodeIP6(1)} {
		port := f.hosts[1].greet(t, node.String())
		if got := pod.mustCall(t, netip.AddrPortFrom(node, port)); got != a.Addrs[family].String() {
			t.Errorf("another node saw the pod at %s, want its own address %s", got, a.Addrs[family])
		}
	}
	f.hosts[0].Do(func() error { return n.SyncRoutes(nil) }) // it is not a node any more
	port := f.hosts[1].greet(t, f.nodeIP(1).String())
	if got := pod.mustCall(t, netip.AddrPortFrom(f.nodeIP(1), port)); got != f.nodeIP(0).String() {
		t.Errorf("a host that is no node saw the pod at %s, want the host's %s", got, f.nodeIP(0))
	}
}

func TestPodCannotForgeItsSource(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	pod := newNamespace(t)
	f.attach(t, n, 0, "pod", pod)
	pod.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(netip.MustParseAddr("10.244.1.200"))}); err != nil {
			return err
		}
		s, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 244, 1, 200)}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 11), Port: 9})
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.Write([]byte("forged"))
		return err
	})
	var filtered string
	f.hosts[0].Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/netstat")
		filtered = netstat(string(b), "IPReversePathFilter")
		return err
	})
	if filtered != "1" {
		t.Fatalf("packets refused for a forged source: %s, want 1", filtered)
	}
}

// netstat picks a value of /proc/net/netstat's pairs of header and value lines.
func netstat(text, name string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if at := slices.Index(strings.Fields(lines[i]), name); at >= 0 {
			return strings.Fields(lines[i+1])[at]
		}
	}
	return "absent"
}

func TestUnusedAndUntranslatedAddressesAreRefusedAtOnce(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	pod := newNamespace(t)
	f.attach(t, n, 0, "pod", pod)
	for to, want := range map[string]error{
		"10.244.1.77:80": unix.EHOSTUNREACH, "10.96.0.1:443": unix.EHOSTUNREACH,
		"[fd00:10:244:1::77]:80": unix.ENETUNREACH, "[fd00:10:96::1]:443": unix.ENETUNREACH, // as the kernel words it
	} {
		if _, err := pod.call(t, netip.MustParseAddrPort(to)); !errors.Is(err, want) {
			t.Errorf("connect to %s: %v, want %v", to, err, want)
		}
	}
}

// A node that was deleted and registered again may have another range, and another host the old one.
func TestFormerRangeIsNotRefused(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	cfg := n.cfg
	before := len(routesOf(t, f.hosts[0]))
	cfg.PodCIDRs = prefixes("10.244.99.0/24", "fd00:10:244:99::/64")
	f.hosts[0].Do(func() error {
		next, err := New(cfg)
		if err == nil {
			next.Close()
		}
		return err
	})
	after := routesOf(t, f.hosts[0])
	if text := fmt.Sprint(after); len(after) != before ||
		strings.Contains(text, "10.244.1.") || strings.Contains(text, "244:1::") ||
		!strings.Contains(text, "10.244.99.0/24") || !strings.Contains(text, "fd00:10:244:99::/64") {
		t.Errorf("routes with the new range: %v", after)
	}
}

func TestRestartTakesOverPodsAndTheirConnections(t *testing.T) {
	f := newFabric(t, 1)
	first := f.network(t, 0)
	pod, other := newNamespace(t), newNamespace(t)
	a := f.attach(t, first, 0, "pod", pod)
	f.attach(t, first, 0, "other", other)

	var listener net.Listener
	var client net.Conn
	pod.Do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(a.Addrs[0].String(), "0"))
		return err
	})
	defer listener.Close()
	other.Do(func() (err error) {
		client, err = net.Dial("tcp4", listener.Addr().String())
		return err
	})
	defer client.Close()
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()

	before := hostLinks(t, f.hosts[0])
	second := f.network(t, 0)
	if got := second.Attachments()["pod"]; !got.Equal(a) {
		t.Fatalf("after the restart the pod has %+v, want %+v", got, a)
	}
	if got := f.attach(t, second, 0, "pod", pod); !got.Equal(a) {
		t.Fatalf("attached again the pod has %+v, want %+v", got, a)
	}
	if after := hostLinks(t, f.hosts[0]); !slices.Equal(before, after) {
		t.Fatalf("interfaces changed from %v to %v", before, after)
	}
	if _, err := client.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if _, err := served.Read(buf); err != nil || string(buf) != "still here" {
		t.Fatalf("read %q, %v over the connection", buf, err)
	}
	third := newNamespace(t)
	if got := f.attach(t, second, 0, "third", third); got.Addrs[0] != netip.MustParseAddr("10.244.1.3") {
		t.Fatalf("the next pod got %s, want 10.244.1.3: the next one not handed out", got.Addrs[0])
	}
}

// A process killed between making the pair and recording it leaves a link without an alias.
func TestHalfMadeInterfaceIsRemovedAndThePodAttachedAnew(t *testing.T) {
	f := newFabric(t, 1)
	pod := newNamespace(t)
	half := func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = HostInterface("pod")
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.FD())})
	}
	f.hosts[0].Do(half)
	n := f.network(t, 0)
	if left := hostLinks(t, f.hosts[0]); len(left) != 0 {
		t.Fatalf("interfaces after the start: %v, want none", left)
	}
	f.hosts[0].Do(half) // and killed again after the start
	a := f.attach(t, n, 0, "pod", pod)
	port := pod.greet(t, a.Addrs[0].String())
	f.hosts[0].mustCall(t, netip.AddrPortFrom(a.Addrs[0], port))
}

func TestPodInANewNamespaceKeepsItsAddress(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	a := f.attach(t, n, 0, "pod", newNamespace(t))
	again := newNamespace(t)
	b := f.attach(t, n, 0, "pod", again)
	if !slices.Equal(b.Addrs, a.Addrs) {
		t.Fatalf("addresses changed from %s to %s", a.Addrs, b.Addrs)
	}
	f.hosts[0].mustCall(t, netip.AddrPortFrom(b.Addrs[0], again.greet(t, b.Addrs[0].String())))
}

func TestDetachAndRemoveLeaveNothing(t *testing.T) {
	f := newFabric(t, 2)
	foreign := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Gw: net.IPv4(192, 0, 2, 1)}
	f.hosts[0].Do(func() error { return netlink.RouteAdd(foreign) })
	before := routesOf(t, f.hosts[0])
	n := f.network(t, 0)
	for i := range 4 {
		f.attach(t, n, 0, fmt.Sprint("pod", i), newNamespace(t))
	}
	f.hosts[0].Do(func() error {
		if err := n.SyncRoutes([]Peer{f.peer(1)}); err != nil {
			return err
		}
		for range 2 { // the second finds nothing to do
			if err := n.Detach("pod0"); err != nil {
				return err
			}
		}
		return nil
	})
	if left := hostLinks(t, f.hosts[0]); len(left) != 3 || len(n.Attachments()) != 3 {
		t.Fatalf("after one Detach: %v, %v; want three of each", left, n.Attachments())
	}
	f.hosts[0].Do(Remove)
	f.hosts[0].Do(Remove)
	if left := hostLinks(t, f.hosts[0]); len(left) != 0 {
		t.Errorf("interfaces left: %v", left)
	}
	if after := routesOf(t, f.hosts[0]); !slices.Equal(before, after) {
		t.Errorf("routes before %v, after %v", before, after)
	}
	f.hosts[0].Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if len(tables) != 0 {
			t.Errorf("nftables tables left: %v", tables)
		}
		return err
	})
}

func TestCountersAreThePodsView(t *testing.T) {
	f := newFabric(t, 1)
	n := f.network(t, 0)
	pod := newNamespace(t)
	a := f.attach(t, n, 0, "pod", pod)
	before, err := n.Counters("pod")
	if err != nil {
		t.Fatal(err)
	}
	var conn *net.UDPConn
	f.hosts[0].Do(func() (err error) {
		conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: a.Addrs[0].AsSlice(), Port: 9})
		if err != nil {
			return err
		}
		_, err = conn.Write(make([]byte, 1000))
		return err
	})
	defer conn.Close()
	after, err := n.Counters("pod")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.RxBytes - before.RxBytes; got < 1042 || got > 1500 {
		t.Errorf("the pod received %d bytes for one packet of 1042: %+v -> %+v", got, before, after)
	}
	if _, err := n.Counters("none"); err == nil {
		t.Error("counters of a pod without an interface: no error")
	}
}

func TestUnknownNodeAddressIsRefused(t *testing.T) {
	f := newFabric(t, 1)
	cfg := f.config(0)
	cfg.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.99")}
	f.hosts[0].Do(func() error {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "no interface of this host has the node address 192.0.2.99") {
			t.Errorf("New: %v", err)
		}
		return nil
	})
}

// hostLinks lists our interfaces as "name index alias".
func hostLinks(t *testing.T, host *namespace) (found []string) {
	t.Helper()
	host.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if isHostInterface(l.Attrs().Name) {
				found = append(found, fmt.Sprint(l.Attrs().Name, " ", l.Attrs().Index, " ", l.Attrs().Alias))
			}
		}
		return err
	})
	return found
}

func routesOf(t *testing.T, host *namespace) (found []string) {
	t.Helper()
	host.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			if cidr, _ := destination(r); cidr.Addr().IsLinkLocalUnicast() {
				continue // comes by itself, some time after a link is up
			}
			found = append(found, fmt.Sprint(r.Dst, " via ", r.Gw, " dev ", r.LinkIndex, " type ", r.Type))
		}
		return err
	})
	slices.Sort(found)
	return found
}

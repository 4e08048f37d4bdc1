package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// echo listens for datagrams in the namespace and sends each one back.
func (ns *namespace) echo(t *testing.T, addr netip.Addr) netip.AddrPort {
	t.Helper()
	var conn *net.UDPConn
	ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// datagram sends one that may not be fragmented on the way, and returns when it has come back.
func (ns *namespace) datagram(t *testing.T, to netip.AddrPort, size int) (failure error) {
	t.Helper()
	ns.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var serr error
		if err := raw.Control(func(fd uintptr) {
			if to.Addr().Is4() {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			}
		}); err != nil || serr != nil {
			return errors.Join(err, serr)
		}
		sent := bytes.Repeat([]byte("x"), size)
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, failure = conn.Write(sent); failure != nil {
			return nil
		}
		got := make([]byte, 1<<16)
		n, err := conn.Read(got)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes came back", n)
		}
		failure = err
		return nil
	})
	return failure
}

// udpSize is the largest payload of a packet.
func udpSize(mtu int, addr netip.Addr) int {
	if addr.Is4() {
		return mtu - 20 - 8
	}
	return mtu - 40 - 8
}

// stream sends many bytes over TCP, which the other end counts.
func stream(t *testing.T, from, to *namespace, addr netip.Addr, size int64) {
	t.Helper()
	var listener net.Listener
	to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr.String(), "0"))
		return err
	})
	defer listener.Close()
	counted := make(chan int64, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			counted <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		counted <- n
	}()
	var client net.Conn
	from.Do(func() (err error) {
		client, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	})
	client.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.CopyN(client, zeroes{}, size); err != nil {
		t.Errorf("send to %s: %v", addr, err)
	}
	client.Close()
	if got := <-counted; got != size {
		t.Errorf("%d bytes arrived at %s, want %d", got, addr, size)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

func TestHostsThatShareNoLinkAreReachedThroughVXLAN(t *testing.T) {
	f := newRoutedFabric(t, 1, 2)
	var networks []*Network
	var pods []*namespace
	var places []Attachment
	for host := range 3 {
		n := f.network(t, host)
		pod := newNamespace(t)
		networks, pods = append(networks, n), append(pods, pod)
		places = append(places, f.attach(t, n, host, fmt.Sprint("pod", host), pod))
	}
	f.join(t, networks...)
	mtu := fabricMTU - overlayOverhead(netlink.FAMILY_V4)
	for from := range 3 {
		for to := range 3 {
			if from == to {
				continue
			}
			for family, addr := range places[to].Addrs {
				target := netip.AddrPortFrom(addr, pods[to].greet(t, addr.String()))
				if got := pods[from].mustCall(t, target); got != places[from].Addrs[family].String() {
					t.Errorf("pod%d saw pod%d at %s, want its own address", to, from, got)
				}
				if got := f.hosts[from].mustCall(t, target); got != podRanges(from)[family].Addr().String() {
					t.Errorf("pod%d saw host %d at %s, want its address on the overlay", to, from, got)
				}
				echo := pods[to].echo(t, addr)
				if err := pods[from].datagram(t, echo, udpSize(mtu, addr)); err != nil {
					t.Errorf("packet of %d bytes from pod%d to %s: %v", mtu, from, addr, err)
				}
				if err := pods[from].datagram(t, echo, udpSize(mtu, addr)+1); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("packet of %d bytes from pod%d to %s: %v, want %v", mtu+1, from, addr, err, unix.EMSGSIZE)
				}
				stream(t, pods[from], pods[to], addr, 4<<20)
			}
		}
	}
}

func TestPeerMovesBetweenRouteAndVXLANInPlace(t *testing.T) {
	f := newRoutedFabric(t, 2, 1)
	var reported [][]string
	cfg := f.config(0)
	cfg.UplinksChanged = func(interfaces []string) { reported = append(reported, interfaces) }
	n := f.start(t, 0, cfg)
	pod := newNamespace(t)
	f.attach(t, n, 0, "pod", pod)
	moved := Peer{Name: "moved", NodeIPs: f.peer(1).NodeIPs, PodCIDRs: podRanges(2)}
	check := func(when string, device string, cluster, default4, default6 string) {
		t.Helper()
		f.hosts[0].Do(func() error {
			for _, cidr := range moved.PodCIDRs {
				routes, err := netlink.RouteGet(cidr.Addr().Next().AsSlice())
				if err != nil || len(routes) != 1 {
					return fmt.Errorf("%s: way to %s: %v, %v", when, cidr, routes, err)
				}
				link, err := netlink.LinkByIndex(routes[0].LinkIndex)
				if err != nil {
					return err
				}
				if link.Attrs().Name != device {
					t.Errorf("%s: packets to %s leave by %s, want %s", when, cidr, link.Attrs().Name, device)
				}
			}
			return nil
		})
		inside := podRoutes(t, pod)
		for dst, want := range map[string]string{
			"10.244.0.0/16": cluster, "fd00:10:244::/48": cluster, "0.0.0.0/0": default4, "::/0": default6,
		} {
			if inside[dst] != want {
				t.Errorf("%s: the pod's route to %s has %s, want %s", when, dst, inside[dst], want)
			}
		}
	}
	// Default routes offer segments that fit behind the outer header that load balancing adds: IPv6's, since hosts have it.
	const default4, default6 = "mtu 0 advmss 1320", "mtu 0 advmss 1300"
	steps := []struct {
		name, device, cluster string
		peers                 []Peer
	}{
		{"on the link", "eth0", "mtu 0 advmss 0", []Peer{moved}},
		{"behind a router", "skep-vxlan4", "mtu 1350 advmss 0", []Peer{f.peer(2)}},
		{"on the link again", "eth0", "mtu 0 advmss 0", []Peer{moved}},
	}
	for _, step := range steps {
		f.hosts[0].Do(func() error { return n.SyncRoutes(step.peers) })
		check(step.name, step.device, step.cluster, default4, default6)
	}
	if want := [][]string{{"eth0"}, {"eth0", "skep-vxlan4"}, {"eth0"}}; !slices.EqualFunc(reported, want, slices.Equal) || !slices.Equal(n.Uplinks(), want[2]) {
		t.Errorf("reported uplinks %v and has %v now, want %v", reported, n.Uplinks(), want)
	}
	f.hosts[0].Do(func() error {
		if _, err := netlink.LinkByName("skep-vxlan4"); !isLinkNotFound(err) {
			t.Errorf("the overlay that nothing uses is still there (%v)", err)
		}
		return nil
	})
}

// podRoutes reads the packet sizes of a pod's routes, by destination.
func podRoutes(t *testing.T, pod *namespace) map[string]string {
	t.Helper()
	found := map[string]string{}
	pod.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			if cidr, ok := destination(r); ok {
				found[cidr.String()] = fmt.Sprint("mtu ", r.MTU, " advmss ", r.AdvMSS)
			}
		}
		return err
	})
	return found
}

// A process that takes over keeps using the overlay without losing a packet; it also repairs what is wrong with it.
func TestRestartTakesOverTheOverlay(t *testing.T) {
	f := newRoutedFabric(t, 1, 1)
	networks := []*Network{f.network(t, 0), f.network(t, 1)}
	pods := []*namespace{newNamespace(t), newNamespace(t)}
	for host, n := range networks {
		f.attach(t, n, host, fmt.Sprint("pod", host), pods[host])
	}
	f.join(t, networks...)
	before := overlayState(t, f.hosts[0])
	if len(before) != 1+1+2 {
		t.Fatalf("link, forwarding entry and two neighbours expected: %v", before)
	}
	reports := 0
	cfg := f.config(0)
	cfg.UplinksChanged = func([]string) { reports++ }
	again := f.start(t, 0, cfg)
	f.hosts[0].Do(func() error { return again.SyncRoutes([]Peer{f.peer(1)}) })
	if after := overlayState(t, f.hosts[0]); !slices.Equal(before, after) {
		t.Errorf("overlay before the restart %v, after it %v", before, after)
	}
	f.hosts[0].Do(func() error { // as an administrator might
		link, err := netlink.LinkByName("skep-vxlan4")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, IP: netip.MustParseAddr("10.244.2.0").AsSlice()}),
			netlink.LinkSetMTU(link, 1000), netlink.LinkSetDown(link),
			again.SyncRoutes([]Peer{f.peer(1)}))
	})
	if after := overlayState(t, f.hosts[0]); !slices.Equal(before, after) {
		t.Errorf("overlay after repair %v, want %v", after, before)
	}
	addr := again.Attachments()["pod0"].Addrs[1]
	target := netip.AddrPortFrom(addr, pods[0].greet(t, addr.String()))
	if got := pods[1].mustCall(t, target); !strings.HasPrefix(got, "fd00:10:244:2:") {
		t.Errorf("the pod was seen at %s", got)
	}
	if reports != 1 {
		t.Errorf("reported uplinks %d times, want once: at the start", reports)
	}
	f.hosts[0].Do(func() error {
		link, err := netlink.LinkByName("skep-vxlan4")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkDel(link), again.SyncRoutes([]Peer{f.peer(1)}))
	})
	if reports != 2 {
		t.Errorf("reported uplinks %d times, want twice: the overlay was made anew", reports)
	}
	if got := pods[1].mustCall(t, target); !strings.HasPrefix(got, "fd00:10:244:2:") {
		t.Errorf("through the new overlay the pod was seen at %s", got)
	}
}

func overlayState(t *testing.T, host *namespace) (state []string) {
	t.Helper()
	host.Do(func() error {
		link, err := netlink.LinkByName("skep-vxlan4")
		if err != nil {
			return err
		}
		a := link.Attrs()
		state = append(state, fmt.Sprint(a.Index, " ", a.HardwareAddr, " ", a.MTU, " up:", a.Flags&net.FlagUp != 0))
		for _, family := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4, netlink.FAMILY_V6} {
			entries, err := netlink.NeighList(a.Index, family)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.State&netlink.NUD_PERMANENT != 0 {
					state = append(state, fmt.Sprint(family, " ", e.IP, " ", e.HardwareAddr))
				}
			}
		}
		return nil
	})
	return state
}

func TestIPv6OverlayCarriesBothFamilies(t *testing.T) {
	f := newRoutedFabric(t, 1, 1)
	var networks []*Network
	var pods []*namespace
	var places []Attachment
	for host := range 2 {
		cfg := f.config(host)
		cfg.NodeIPs = cfg.NodeIPs[1:]
		n := f.start(t, host, cfg)
		pod := newNamespace(t)
		networks, pods = append(networks, n), append(pods, pod)
		places = append(places, f.attach(t, n, host, fmt.Sprint("pod", host), pod))
		peer := f.peer(1 - host)
		peer.NodeIPs = peer.NodeIPs[1:]
		f.hosts[host].Do(func() error { return n.SyncRoutes([]Peer{peer}) })
	}
	mtu := fabricMTU - overlayOverhead(netlink.FAMILY_V6)
	for _, addr := range places[1].Addrs {
		target := netip.AddrPortFrom(addr, pods[1].greet(t, addr.String()))
		pods[0].mustCall(t, target)
		if err := pods[0].datagram(t, pods[1].echo(t, addr), udpSize(mtu, addr)); err != nil {
			t.Errorf("packet of %d bytes to %s: %v", mtu, addr, err)
		}
	}
	f.hosts[0].Do(func() error { return networks[0].SyncRoutes(nil) })
	f.hosts[0].Do(func() error { // a pod whose routes lack the size learns it from its host
		peer := f.peer(1)
		peer.NodeIPs = peer.NodeIPs[1:]
		networks[0].paths = map[string]string{} // as after a restart
		return networks[0].SyncRoutes([]Peer{peer})
	})
	stream(t, pods[0], pods[1], places[1].Addrs[0], 4<<20)
	stream(t, pods[0], pods[1], places[1].Addrs[1], 4<<20)
}

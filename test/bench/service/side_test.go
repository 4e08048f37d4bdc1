package service

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/service"
)

func podOf(i, k int) netip.Addr { return address([4]byte{10, 128, 0, 1}, i*backendsEach+k) }

// side is one part of the comparison: a network namespace in which all backends
// are local and service addresses lead to loopback, and the translation used there.
type side struct {
	name   string
	handle netns.NsHandle
	cgroup string
	to     []netip.Addr // what clients ask for, in turn
}

// newSide makes the namespace; the calling thread must be locked and is in it
// afterwards.
func newSide(b *testing.B, name, cgroup string, used int) *side {
	b.Helper()
	handle, err := netns.New()
	if err != nil {
		b.Fatalf("make a network namespace (root is needed): %v", err)
	}
	b.Cleanup(func() { handle.Close() })
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err == nil {
		err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: network("10.0.0.1/32")})
	}
	for _, r := range []netlink.Route{
		{Dst: network("10.128.0.0/9"), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST},
		{Dst: network("10.96.0.0/16"), Src: net.IPv4(10, 0, 0, 1), Scope: unix.RT_SCOPE_LINK},
	} {
		if err == nil {
			r.LinkIndex = lo.Attrs().Index
			err = netlink.RouteAdd(&r)
		}
	}
	if err != nil {
		b.Fatalf("set up the namespace of %s: %v", name, err)
	}
	s := &side{name: name, handle: handle, cgroup: cgroup}
	for k := range backendsEach {
		serve(b, netip.AddrPortFrom(podOf(used, k), port))
	}
	return s
}

func network(cidr string) *net.IPNet {
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return n
}

// enter moves the calling thread into the side's namespace and the process into
// its cgroup: sockets that it makes now belong there for ever.
func (s *side) enter(b *testing.B) {
	b.Helper()
	if err := netns.Set(s.handle); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		b.Fatal(err)
	}
}

// serve answers on one backend: TCP connections are read to their end, UDP
// datagrams sent back.
func serve(b *testing.B, at netip.AddrPort) {
	b.Helper()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go swallow(conn)
		}
	}()
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { packets.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			packets.WriteToUDPAddrPort(buffer[:n], from)
		}
	}()
}

func swallow(conn *net.TCPConn) {
	defer conn.Close()
	buffer := make([]byte, 1<<20)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}

// sides makes all sides with that many services, of TCP; the one in use serves UDP as well.
func sides(b *testing.B, services int) []*side {
	b.Helper()
	a := newArena(b)
	used := services / 2 // in the middle: iptables' rules are searched in order
	direct := newSide(b, "direct", a.plain, used)
	for k := range backendsEach {
		direct.to = append(direct.to, podOf(used, k))
	}
	skep := newSide(b, "skep", a.hooked, used)
	installSkep(b, a, services, used)
	nft := newSide(b, "nftables", a.plain, used)
	install(b, "nft", nftables(services, used), "-f", "-")
	ipt := newSide(b, "iptables", a.plain, used)
	install(b, "iptables-legacy-restore", iptables(services, used))
	for _, s := range []*side{skep, nft, ipt} {
		s.to = []netip.Addr{frontendOf(used)}
	}
	return []*side{direct, skep, nft, ipt}
}

// installSkep installs the services in Skep's data plane.
func installSkep(b *testing.B, a arena, services, used int) {
	b.Helper()
	p, err := service.Open(service.Options{
		PinDir: a.pins, CgroupPath: a.hooked,
		Limits: service.Limits{Frontends: 1 << 17, Services: 1 << 17, Backends: 1 << 19, Slots: 1 << 20},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Close()
		if err := service.Remove(a.pins); err != nil {
			b.Error(err)
		}
	})
	install := func(i int, protocol service.Protocol) {
		s := service.Service{
			Name:      fmt.Sprintf("bench/s%05d:%s", i, protocol),
			Frontends: []service.Frontend{{Addr: frontendOf(i), Port: port, Protocol: protocol}},
		}
		for k := range backendsEach {
			s.Backends = append(s.Backends, service.Backend{Addr: podOf(i, k), Port: port})
		}
		p.SetService(s)
	}
	for i := range services {
		install(i, service.TCP)
	}
	install(used, service.UDP)
	flush(b, p)
}

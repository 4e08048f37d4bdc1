package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// advertise sends a router advertisement from the routing namespace to the link of its hosts.
func (f *fabric) advertise(t *testing.T) {
	t.Helper()
	f.bridge.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		br, err := net.InterfaceByName("br0")
		if err != nil {
			return err
		}
		own := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fe80::99/64")), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: br.Index}}, own); err != nil {
			return err
		}
		from := &unix.SockaddrInet6{ZoneId: uint32(br.Index), Addr: netip.MustParseAddr("fe80::99").As16()}
		if err := errors.Join(unix.Bind(fd, from), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)); err != nil {
			return err
		}
		to := &unix.SockaddrInet6{ZoneId: uint32(br.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
		lifetime := []byte{0x07, 0x08} // 1800 s
		return unix.Sendto(fd, slices.Concat([]byte{134, 0, 0, 0, 64, 0}, lifetime, make([]byte, 8)), 0, to)
	})
}

func TestForwardingKeepsTheRouterThatAdvertisesItself(t *testing.T) {
	f := newFabric(t, 1)
	host := f.hosts[0]
	updates, stop := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	host.Do(func() error {
		return errors.Join(
			netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), Gw: net.ParseIP("2001:db8:2::1")}),
			netlink.RouteSubscribe(updates, stop))
	})
	defer close(stop)
	again := time.NewTicker(100 * time.Millisecond) // a link that has just come up may lose the first
	defer again.Stop()
	for learnt := false; !learnt; {
		select {
		case u := <-updates:
			learnt = u.Protocol == unix.RTPROT_RA && isDefault(u.Route)
		case <-again.C:
			f.advertise(t)
		}
	}
	learnt := func(when string) {
		t.Helper()
		host.Do(func() error {
			routes, err := netlink.RouteList(nil, netlink.FAMILY_V6)
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol == unix.RTPROT_RA && isDefault(r) }) {
				t.Errorf("%s: the advertised default route is gone", when)
			}
			return err
		})
	}
	learnt("before")
	n := f.network(t, 0)
	f.attach(t, n, 0, "pod", newNamespace(t))
	learnt("with a pod")
	host.Do(forwardEverywhere) // as on a kernel that cannot forward by interface
	learnt("forwarding everywhere")
	host.Do(func() error {
		value, err := os.ReadFile(sysctlPath(netlink.FAMILY_V6, "eth0", "accept_ra"))
		if strings.TrimSpace(string(value)) != "2" {
			t.Errorf("accept_ra is %s, want 2: later advertisements would be ignored", value)
		}
		return err
	})
}

func TestHostWithoutIPv6GivesPodsIPv4(t *testing.T) {
	f := newFabric(t, 1)
	f.hosts[0].Do(func() error {
		return os.WriteFile(sysctlPath(netlink.FAMILY_V6, "all", "disable_ipv6"), []byte("1"), 0)
	})
	var log bytes.Buffer
	cfg := f.config(0)
	cfg.NodeIPs = cfg.NodeIPs[:1]
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	n := f.start(t, 0, cfg)
	pod := newNamespace(t)
	a := f.attach(t, n, 0, "pod", pod)
	if len(a.Addrs) != 1 || !a.Addrs[0].Is4() {
		t.Fatalf("the pod has %v, want one IPv4 address", a.Addrs)
	}
	if got := strings.Count(log.String(), "IPv6 is off on this host"); got != 1 {
		t.Errorf("said %d times that IPv6 is off, want once:\n%s", got, log.String())
	}
	port := f.far.greet(t, "203.0.113.9")
	pod.mustCall(t, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port))
	f.hosts[0].Do(func() error {
		cfg.PodCIDRs = cfg.PodCIDRs[1:]
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "disable_ipv6 is 1") {
			t.Errorf("New with IPv6 only: %v", err)
		}
		return nil
	})
}

// A host that gets a second family keeps the pods of the first as they are; one that loses it keeps their other addresses.
func TestFamiliesMayComeAndGoBetweenStarts(t *testing.T) {
	f := newFabric(t, 1)
	dual := f.config(0)
	single := dual
	single.PodCIDRs = dual.PodCIDRs[:1]
	old, late := newNamespace(t), newNamespace(t)
	a := f.attach(t, f.start(t, 0, single), 0, "old", old)
	if alias := hostLinks(t, f.hosts[0])[0]; !strings.HasSuffix(alias, "skep pod old 10.244.1.1") {
		t.Fatalf("link %q has another alias than single-family hosts have always written", alias)
	}
	second := f.start(t, 0, dual)
	if got := f.attach(t, second, 0, "old", old); !got.Equal(a) {
		t.Errorf("the pod of before has %+v, want %+v", got, a)
	}
	b := f.attach(t, second, 0, "late", late)
	if len(b.Addrs) != 2 {
		t.Errorf("a new pod has %v, want an address of each family", b.Addrs)
	}
	third := f.start(t, 0, single).Attachments()
	if !third["old"].Equal(a) || !slices.Equal(third["late"].Addrs, b.Addrs[:1]) {
		t.Errorf("after the family went: %+v", third)
	}
	port := late.greet(t, b.Addrs[0].String())
	old.mustCall(t, netip.AddrPortFrom(b.Addrs[0], port))
}

func TestConfigIsChecked(t *testing.T) {
	f := newFabric(t, 1)
	for want, change := range map[string]func(*Config){
		"node's IP address is missing": func(c *Config) { c.NodeIPs = nil },
		"pod range is missing":         func(c *Config) { c.PodCIDRs = nil },
		"is not a network prefix":      func(c *Config) { c.PodCIDRs = prefixes("10.244.1.1/24") },
		"are both IPv6":                func(c *Config) { c.PodCIDRs = prefixes("fd00:10:244:1::/64", "fd00:10:244:2::/64") },
		"contains this node's, fd00":   func(c *Config) { c.ClusterCIDRs = c.ClusterCIDRs[:1] },
		"contains this node's, 10.245": func(c *Config) { c.PodCIDRs = prefixes("10.245.1.0/24") },
	} {
		cfg := f.config(0)
		change(&cfg)
		f.hosts[0].Do(func() error {
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("New: %v, want %q in it", err, want)
			}
			return nil
		})
	}
}

func TestChainsThatDropForwardedPacketsAreNamed(t *testing.T) {
	f := newFabric(t, 1)
	f.hosts[0].Do(func() error {
		if found := DroppedForwarding(); len(found) != 0 {
			t.Errorf("without packet filters: %v", found)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
		for name, policy := range map[string]*nftables.ChainPolicy{"shut": &drop, "open": &accept} {
			table := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyIPv4})
			for _, hook := range []*nftables.ChainHook{nftables.ChainHookForward, nftables.ChainHookInput} {
				c.AddChain(&nftables.Chain{
					Name: fmt.Sprint("chain", *hook), Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
					Priority: nftables.ChainPriorityFilter, Policy: policy,
				})
			}
		}
		if err := c.Flush(); err != nil {
			return err
		}
		if found := DroppedForwarding(); !slices.Equal(found, []string{"nftables chain ip shut chain2 (policy drop)"}) {
			t.Errorf("chains that drop: %v", found)
		}
		return nil
	})
	var log bytes.Buffer
	cfg := f.config(0)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	f.start(t, 0, cfg)
	if !strings.Contains(log.String(), "nftables chain ip shut chain2") {
		t.Errorf("the start does not warn:\n%s", log.String())
	}
}

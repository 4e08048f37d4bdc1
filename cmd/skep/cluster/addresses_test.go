package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAddressesOfBothFamiliesReadAlike(t *testing.T) {
	st := &state{Subnet: 12, IPv6: true, Nodes: map[string]*nodeState{"node1": {Index: 1}, "node7": {Index: 7, Routed: true}}}
	for node, want := range map[string]string{
		"node1": "198.18.12.11,fd53:6b65:7018:12::11",
		"node7": "198.19.12.17,fd53:6b65:7019:12::17",
	} {
		if got := commas(st.addrs(node)); got != want {
			t.Errorf("%s has %s, want %s", node, got, want)
		}
	}
	if got, want := st.loadBalancers(), "198.18.12.200-198.18.12.250,fd53:6b65:7018:12::1:0/112"; got != want {
		t.Errorf("load balancers have %s, want %s", got, want)
	}
	st.IPv6 = false
	if got := commas(st.addrs("node1")) + " " + st.loadBalancers(); got != "198.18.12.11 198.18.12.200-198.18.12.250" {
		t.Errorf("without IPv6: %s", got)
	}
	last := onBridge.addr(12, 10+MaxNodes)
	if last.Compare(onBridge.addr(12, 200)) >= 0 {
		t.Errorf("the last host, %s, is among the load balancers' addresses", last)
	}
}

func TestAgentsGetBothFamilies(t *testing.T) {
	c := &Cluster{Name: "families", Dir: t.TempDir()}
	if err := os.MkdirAll(c.skepdDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.skepdDir(), "join-token"), []byte("skep2.test"), 0o600); err != nil {
		t.Fatal(err)
	}
	st := &state{Subnet: 12, Nodes: map[string]*nodeState{"node1": {Index: 1}}}
	for ipv6, want := range map[bool][]string{
		false: {"--node-ip 198.18.12.11 --state-dir"},
		true:  {"--node-ip 198.18.12.11,fd53:6b65:7018:12::11 --state-dir"},
	} {
		st.IPv6 = ipv6
		argv, err := c.agentCommand(st, "node1")
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(argv, " ")
		for _, part := range want {
			if !strings.Contains(line, part) {
				t.Errorf("%q is missing in %s", part, line)
			}
		}
		if !ipv6 && strings.Contains(line, "cidr") {
			t.Errorf("without IPv6 the defaults are right: %s", line)
		}
	}
}

func TestHostBehindRouterSharesNoLink(t *testing.T) {
	c := hosts(t, 2)
	raiseWith(t, c, Options{Nodes: 3, Routed: []string{"node3"}})
	near, far := node(t, c, "node1"), node(t, c, "node3")
	for _, pair := range [][2]*Node{{near, node(t, c, "node2")}, {near, far}, {far, near}} {
		for _, addr := range []netip.Addr{pair[1].Addr, pair[1].Addr6} {
			if _, err := echo(dialAddr(t, pair[0], pair[1], addr), 5*time.Second); err != nil {
				t.Errorf("%s to %s at %s: %v", pair[0].Name, pair[1].Name, addr, err)
			}
		}
	}
	for _, addr := range []netip.Addr{far.Addr, far.Addr6} {
		err := near.InNetwork(func() error {
			routes, err := netlink.RouteGet(addr.AsSlice())
			if err == nil && (len(routes) != 1 || routes[0].Gw == nil) {
				t.Errorf("the way from node1 to %s is %v, want one through the router", addr, routes)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	conn := dial(t, near, far)
	if err := far.Cut(); err != nil {
		t.Fatal(err)
	}
	if _, err := echo(conn, 300*time.Millisecond); err == nil {
		t.Error("a host that is cut off behind the router answers")
	}
	if err := far.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := far.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := far.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := echo(dialAddr(t, near, far, far.Addr6), 5*time.Second); err != nil {
		t.Errorf("after a reboot: %v", err)
	}
	if err := Down(t.Context(), c.Name, c.Dir, t.Output()); err != nil {
		t.Fatal(err)
	}
	requireGone(t, c)
}

func TestUpWarnsOfFiltersOnBridges(t *testing.T) {
	var out strings.Builder
	c := &Cluster{Name: "filtered", progress: &out}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		c.warnOfFilters()
		if out.Len() > 0 {
			t.Errorf("warns where nothing is dropped: %s", out.String())
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		drop := nftables.ChainPolicyDrop
		table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
		conn.AddChain(&nftables.Chain{
			Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
			Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
		if err := conn.Flush(); err != nil {
			return err
		}
		if err := writeAll("1", "/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
			return err
		}
		c.warnOfFilters()
		if want := "nftables chain ip filter FORWARD (policy drop) also sees what crosses the bridge"; strings.Count(out.String(), want) != 1 {
			t.Errorf("said %q, want %q in it once", out.String(), want)
		}
		out.Reset()
		if err := writeAll("0", "/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"); err != nil {
			return err
		}
		c.warnOfFilters()
		if out.Len() > 0 {
			t.Errorf("warns where bridged packets pass no filter: %s", out.String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func writeAll(value string, paths ...string) error {
	for _, path := range paths {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func TestRouterIsItsOwnClustersOnly(t *testing.T) {
	pattern := netnsPattern("a")
	for name, want := range map[string]bool{
		"skep-a-node1": true, "skep-a-router": true, "skep-a-b-router": false, "skep-a-node": false, "skep-a-b-node1": false,
	} {
		if got := pattern.MatchString(name); got != want {
			t.Errorf("%s is cluster a's: %v, want %v", name, got, want)
		}
	}
}

package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// segment is one of the links that a cluster's hosts are on. Its addresses have the
// same numbers in both families: 198.18.N.11 and fd53:6b65:7018:N::11.
type segment int

const (
	onBridge     segment = 18
	behindRouter segment = 19
)

// Places on a segment besides those of the hosts, which are 10 and their index.
const (
	gatewayHost = 1   // the bridge, or the router's inner side
	routerHost  = 254 // the router, on the bridge
)

func (g segment) prefix(subnet int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(g), byte(subnet), 0}), 24)
}

func (g segment) prefix6(subnet int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd53:6b65:70%d:%d::/64", g, subnet))
}

func (g segment) addr(subnet, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(g), byte(subnet), byte(host)})
}

func (g segment) addr6(subnet, host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd53:6b65:70%d:%d::%d", g, subnet, host))
}

// addrs are a place's addresses, with the lengths of their prefixes.
func (g segment) addrs(subnet, host int, ipv6 bool) []netip.Prefix {
	list := []netip.Prefix{netip.PrefixFrom(g.addr(subnet, host), 24)}
	if ipv6 {
		list = append(list, netip.PrefixFrom(g.addr6(subnet, host), 64))
	}
	return list
}

func subnetPrefix(subnet int) netip.Prefix { return onBridge.prefix(subnet) }

func bridgeAddr(subnet int) netip.Addr { return onBridge.addr(subnet, gatewayHost) }

// The cluster's ranges where it has IPv6; those of IPv4 are skepd's defaults.
const (
	podCIDRs     = "10.244.0.0/16,fd53:6b65:7244::/48"
	serviceCIDRs = "10.96.0.0/16,fd53:6b65:7096::/112"
)

// loadBalancers are the addresses for services of type LoadBalancer, which are
// of the bridge's own link, so that this machine and all hosts find them there.
func (s *state) loadBalancers() string {
	ranges := onBridge.addr(s.Subnet, 200).String() + "-" + onBridge.addr(s.Subnet, 250).String()
	if s.IPv6 {
		ranges += "," + strings.Replace(onBridge.prefix6(s.Subnet).String(), "::/64", "::1:0/112", 1)
	}
	return ranges
}

func (n *nodeState) segment() segment {
	if n.Routed {
		return behindRouter
	}
	return onBridge
}

// addrs are a host's addresses, the primary one first.
func (s *state) addrs(node string) []netip.Addr {
	n := s.Nodes[node]
	var list []netip.Addr
	for _, p := range n.segment().addrs(s.Subnet, 10+n.Index, s.IPv6) {
		list = append(list, p.Addr())
	}
	return list
}

// ipv6Off says why this machine has no IPv6, "" if it has.
func ipv6Off() string {
	for _, name := range []string{"all", "default"} {
		value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err != nil {
			return "the kernel runs without it"
		}
		if strings.TrimSpace(string(value)) == "1" {
			return "net.ipv6.conf." + name + ".disable_ipv6 is 1"
		}
	}
	return ""
}

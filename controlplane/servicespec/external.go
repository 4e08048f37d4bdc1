package servicespec

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Inside are the cluster's own addresses, which no service may claim as external or
// load-balancer addresses: every connection to them, from pods and nodes, would go to
// that service's endpoints (CVE-2020-8554).
type Inside struct {
	ServiceCIDRs, PodCIDRs []netip.Prefix
	APIServers             []netip.Addr
	Node                   func(netip.Addr) string // the node that has an address, "" if none does
}

// Reserved says why no service can have an address that the cluster did not give it, ""
// if one can.
func (in Inside) Reserved(addr netip.Addr) string {
	switch {
	case addr.IsLoopback():
		return "it is a loopback address"
	case addr.IsLinkLocalUnicast():
		return "it is a link-local address"
	case addr.IsMulticast(), addr.IsUnspecified():
		return "it is not the address of one host"
	case slices.Contains(in.APIServers, addr):
		return "it is the address of the API server"
	}
	if node := in.Node(addr); node != "" {
		return "it is the address of node " + node
	}
	for _, p := range in.ServiceCIDRs {
		if p.Contains(addr) {
			return "it is in the range of service addresses, " + p.String()
		}
	}
	for _, p := range in.PodCIDRs {
		if p.Contains(addr) {
			return "it is in the range of pod addresses, " + p.String()
		}
	}
	return ""
}

// IsExternal says whether a frontend of a service with these cluster addresses is at an
// external address or one in its status, and not at the addresses of every node.
func (f Frontend) IsExternal(clusterAddrs []netip.Addr) bool {
	return !f.Addr.IsUnspecified() && !slices.Contains(clusterAddrs, f.Addr)
}

// HasExternal says whether a service has such frontends.
func HasExternal(svc *corev1.Service) bool {
	return len(svc.Spec.ExternalIPs) > 0 || len(svc.Status.LoadBalancer.Ingress) > 0
}

// ExternalAddrs are the addresses of a service's external frontends, each once.
func ExternalAddrs(svc *corev1.Service) (addrs []netip.Addr) {
	cluster := ClusterAddrs(svc)
	for i := range svc.Spec.Ports {
		for _, f := range Frontends(svc, &svc.Spec.Ports[i]) {
			if f.IsExternal(cluster) && !slices.Contains(addrs, f.Addr) {
				addrs = append(addrs, f.Addr)
			}
		}
	}
	return addrs
}

// LoadBalancerClass is the class of services that Skep gives load-balancer addresses to, beside those without a class.
const LoadBalancerClass = "skep.io/arp"

// GivenByUs says whether Skep gives a service its load-balancer addresses.
func GivenByUs(svc *corev1.Service) bool {
	class := svc.Spec.LoadBalancerClass
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && (class == nil || *class == LoadBalancerClass)
}

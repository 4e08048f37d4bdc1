package conflict

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// insideText says which external addresses of a service nodes ignore, and why; "" if none.
func (c *Controller) insideText(service *corev1.Service) string {
	if !servicespec.HasExternal(service) {
		return ""
	}
	inside := servicespec.Inside{ServiceCIDRs: c.cluster.ServiceCIDRs, APIServers: c.cluster.Servers(), Node: c.claims.nodeWith}
	for _, pods := range c.cluster.Pods() {
		inside.PodCIDRs = append(inside.PodCIDRs, pods.Prefix)
	}
	var parts []string
	for _, addr := range servicespec.ExternalAddrs(service) {
		if why := inside.Reserved(addr); why != "" {
			parts = append(parts, fmt.Sprintf("%s is ignored: %s", addr, why))
		}
	}
	return strings.Join(parts, "; ")
}

// nodeWith names a node that has an address, the first by name.
func (c *claims) nodeWith(addr netip.Addr) (name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hosts[addr] == 0 {
		return ""
	}
	for node, addrs := range c.nodes {
		for _, a := range addrs {
			if a == addr && (name == "" || node < name) {
				name = node
			}
		}
	}
	return name
}

package servicespec

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// OverlayPort is where nodes take what others have wrapped in VXLAN.
const OverlayPort = 8472

// Reserved says why no endpoint of a service can have an address, "" if one can:
// translated twice a connection would go round, and what only one node can reach is
// another place on each. holder names the service whose cluster address it is, "" if
// it is nobody's.
func Reserved(addr netip.Addr, serviceCIDRs []netip.Prefix, holder func(netip.Addr) string) string {
	switch {
	case addr.IsLoopback():
		return "it is a loopback address"
	case addr.IsLinkLocalUnicast():
		return "it is a link-local address"
	case addr.IsMulticast(), addr.IsUnspecified():
		return "it is not the address of one host"
	}
	if service := holder(addr); service != "" {
		return "it is the address of service " + service
	}
	for _, p := range serviceCIDRs {
		if p.Contains(addr) {
			return "it is in the range of service addresses, " + p.String()
		}
	}
	return ""
}

// Unwraps says whether a port of a node's address is where it takes what other nodes wrap: to a service's endpoint there, nodes would
// send what anybody has made up in their own names.
func Unwraps(protocol corev1.Protocol, port uint16) bool {
	return protocol == corev1.ProtocolUDP && port == OverlayPort
}

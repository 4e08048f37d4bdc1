package servicespec

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// OverlayPort is the port at which nodes receive VXLAN packets of other nodes.
const OverlayPort = 8472

// Reserved says why no endpoint of a service can have an address, "" if one can: a
// connection that is translated twice would loop, and an address that is local to each
// node is another host on each. holder names the service whose cluster address it is, ""
// if there is none.
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

// Unwraps says whether a node decapsulates packets of other nodes at this port: if a service's endpoint were there, nodes would send
// packets that anybody has forged in the nodes' own names.
func Unwraps(protocol corev1.Protocol, port uint16) bool {
	return protocol == corev1.ProtocolUDP && port == OverlayPort
}

package allocator

import corev1 "k8s.io/api/core/v1"

// What the tests on a real store compare records with.
const (
	LastNodePort    = lastNodePort
	StaticNodePorts = staticNodePorts
	NodePortPrefix  = nodePortPrefix
	PodCIDRPrefix   = podCIDRPrefix
)

var (
	HeldIPs    = heldIPs
	FamilyOf   = familyOf
	PodCIDRKey = podCIDRKey
	SubnetAt   = subnetAt
)

// HeldNodePortKeys are the keys of the records of a service's node ports.
func HeldNodePortKeys(service *corev1.Service) []string {
	var keys []string
	for _, port := range heldNodePorts(service) {
		keys = append(keys, port.key())
	}
	return keys
}

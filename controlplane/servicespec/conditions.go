package servicespec

import corev1 "k8s.io/api/core/v1"

// ServesOutside is the condition by which a node says whether its uplinks serve clients
// outside. While it is False, other nodes announce load-balancer addresses, and send the
// node nothing encapsulated. A node without the condition counts as serving.
const ServesOutside corev1.NodeConditionType = prefix + "ServesOutside"

// PodDrained is the condition by which an agent says of a pod that ends whether any client was using it when its containers got the stop
// signal.
const PodDrained corev1.PodConditionType = prefix + "Drained"

// Conditions that the control plane gives a Service as long as they hold.
const (
	// AddressConflict: addresses and ports that it asks for belong to others.
	AddressConflict = prefix + "AddressConflict"
	// EndpointsIgnored: endpoints are at addresses where none can be.
	EndpointsIgnored = prefix + "EndpointsIgnored"
	// ExternalAddressesIgnored: external addresses of it are the cluster's own.
	ExternalAddressesIgnored = prefix + "ExternalAddressesIgnored"
	// LoadBalancerAddress, with status False: it lacks a load-balancer address.
	LoadBalancerAddress = prefix + "LoadBalancerAddress"
)

package servicespec

// Conditions that the control plane gives a Service as long as they hold.
const (
	// AddressConflict: addresses and ports that it asks for belong to others.
	AddressConflict = prefix + "AddressConflict"
	// EndpointsIgnored: endpoints are at addresses where none can be.
	EndpointsIgnored = prefix + "EndpointsIgnored"
	// LoadBalancerAddress, with status False: it lacks a load-balancer address.
	LoadBalancerAddress = prefix + "LoadBalancerAddress"
)

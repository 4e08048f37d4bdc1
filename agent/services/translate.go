package services

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/dataplane/service"
)

// translate turns a service into one of the plane per port. A service without cluster address (headless, an external name)
// has none.
func translate(svc *corev1.Service, slices []any) []service.Service {
	addrs := clusterAddrs(svc)
	if len(addrs) == 0 {
		return nil
	}
	var out []service.Service
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		protocol, ok := protocolOf(port.Protocol)
		if !ok {
			continue
		}
		s := service.Service{Name: serviceName(svc, port), AffinityTimeout: affinity(svc)}
		for _, addr := range addrs {
			s.Frontends = append(s.Frontends, service.Frontend{
				Addr: addr, Port: uint16(port.Port), Protocol: protocol, Scope: service.ScopeCluster,
			})
		}
		for _, obj := range slices {
			s.Backends = appendBackends(s.Backends, obj.(*discoveryv1.EndpointSlice), port)
		}
		out = append(out, s)
	}
	return out
}

func serviceName(svc *corev1.Service, port *corev1.ServicePort) string {
	name := svc.Namespace + "/" + svc.Name
	if port.Name != "" {
		name += ":" + port.Name
	}
	return name
}

func clusterAddrs(svc *corev1.Service) (addrs []netip.Addr) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	all := svc.Spec.ClusterIPs
	if len(all) == 0 {
		all = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range all {
		if addr, err := netip.ParseAddr(ip); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func appendBackends(out []service.Backend, slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) []service.Backend {
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		return out
	}
	number := targetPort(slice, port)
	if number == 0 {
		return out
	}
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(e.Addresses[0]) // the others name the same endpoint
		if err != nil {
			continue
		}
		out = append(out, service.Backend{Addr: addr, Port: number, Node: ptr.Deref(e.NodeName, ""), State: stateOf(e.Conditions)})
	}
	return out
}

// targetPort is the slice's port of the service port's name; 0 if it has none.
func targetPort(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) uint16 {
	for _, p := range slice.Ports {
		if ptr.Deref(p.Name, "") == port.Name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == port.Protocol {
			return uint16(ptr.Deref(p.Port, 0))
		}
	}
	return 0
}

// stateOf: what is not said counts as ready. A terminating endpoint that still serves is used while no ready one is left.
func stateOf(c discoveryv1.EndpointConditions) service.State {
	switch {
	case ptr.Deref(c.Ready, true):
		return service.Active
	case ptr.Deref(c.Serving, false) && ptr.Deref(c.Terminating, false):
		return service.Terminating
	}
	return service.Unready
}

func protocolOf(p corev1.Protocol) (service.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return service.TCP, true
	case corev1.ProtocolUDP:
		return service.UDP, true
	case corev1.ProtocolSCTP:
		return service.SCTP, true
	}
	return 0, false
}

func sliceService(s *discoveryv1.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

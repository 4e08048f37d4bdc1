package services

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/dataplane/service"
)

// What users may say about a service beyond Kubernetes' own fields.
const (
	// SelectionAnnotation: round-robin (default), least-connections, random or maglev.
	SelectionAnnotation = "skep.io/selection"
	// ForwardingAnnotation: dsr (default) or snat, for connections from outside whose backend is on another node.
	ForwardingAnnotation = "skep.io/forwarding"
	// AnnouncedByAnnotation is written by the control plane: the node that answers for the service's load-balancer addresses.
	AnnouncedByAnnotation = "skep.io/announced-by"
)

// Labels by which services and slices are left to others.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = corev1.IsHeadlessService
)

// oldSourceRanges is the annotation that spec.loadBalancerSourceRanges replaced.
const oldSourceRanges = corev1.AnnotationLoadBalancerSourceRangesKey

// translation is what a service means on this node.
type translation struct {
	services []service.Service
	warnings []string // parts that are ignored, and why
	health   *health  // nil: no load balancer asks about it
}

// health is what load balancers are told about a service with externalTrafficPolicy Local.
type health struct {
	port  uint16
	local int // ready endpoints on this node, whatever their port
}

// view is where a service is looked at from.
type view struct {
	node, zone string
	// draining says whether a pod of this node is about to end, which the API may not say yet.
	draining func(pod string) bool
	// reserved says why an address cannot be an endpoint; "" if it can.
	reserved func(netip.Addr) string
}

// translate turns a service into one of the plane per port. Services without cluster address (headless, external names) and
// those that another proxy serves have none.
func (v *view) translate(svc *corev1.Service, slices []any) translation {
	var t translation
	addrs := clusterAddrs(svc)
	if len(addrs) == 0 {
		return t
	}
	spec := &svc.Spec
	reading := v.read(slices, spec.PublishNotReadyAddresses, &t)
	base := service.Service{AffinityTimeout: affinity(svc), Unconditional: spec.PublishNotReadyAddresses}
	base.Selection, base.SNAT = t.annotations(svc)
	var restricted bool
	base.SourceRanges, restricted = t.sourceRanges(svc)
	for i := range spec.Ports {
		port := &spec.Ports[i]
		protocol, ok := protocolOf(port.Protocol)
		if !ok {
			t.warn("port %d: protocol %s is not supported", port.Port, port.Protocol)
			continue
		}
		s := base
		s.Name = serviceName(svc, port)
		f := frontends{protocol: protocol, families: familiesOf(addrs), seen: map[service.Frontend]bool{}}
		f.ofService(svc, port, addrs, restricted)
		s.Frontends = f.list
		s.Backends = v.backends(reading, port)
		t.services = append(t.services, s)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && externalLocal(spec) && spec.HealthCheckNodePort != 0 {
		t.health = &health{port: uint16(spec.HealthCheckNodePort), local: v.localReady(reading)}
	}
	return t
}

func (t *translation) warn(format string, args ...any) {
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// annotations reads what only Skep knows. What it does not understand is as if it was not there.
func (t *translation) annotations(svc *corev1.Service) (selection service.Selection, snat bool) {
	switch value := svc.Annotations[SelectionAnnotation]; value {
	case "", "round-robin":
	case "least-connections":
		selection = service.LeastConnections
	case "random":
		selection = service.Random
	case "maglev":
		selection = service.Maglev
	default:
		t.warn("annotation %s: %q is none of round-robin, least-connections, random, maglev; using round-robin", SelectionAnnotation, value)
	}
	switch value := svc.Annotations[ForwardingAnnotation]; value {
	case "", "dsr":
	case "snat":
		snat = true
	default:
		t.warn("annotation %s: %q is neither dsr nor snat; using dsr", ForwardingAnnotation, value)
	}
	return selection, snat
}

// sourceRanges are the clients that a load balancer's addresses admit. A range that cannot be read admits nobody.
func (t *translation) sourceRanges(svc *corev1.Service) (ranges []netip.Prefix, restricted bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil, false
	}
	given := svc.Spec.LoadBalancerSourceRanges
	if len(given) == 0 {
		given = strings.FieldsFunc(svc.Annotations[oldSourceRanges], func(r rune) bool { return r == ',' })
	}
	for _, s := range given {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			t.warn("source range %q admits nobody: it is not ADDRESS/LENGTH", s)
			continue
		}
		ranges = append(ranges, p.Masked())
	}
	return ranges, len(given) > 0
}

// frontends collects the addresses that lead to one port.
type frontends struct {
	protocol service.Protocol
	families [2]bool // IPv4, IPv6
	list     []service.Frontend
	seen     map[service.Frontend]bool // by address, port, protocol, scope: the first policy wins
}

func (f *frontends) ofService(svc *corev1.Service, port *corev1.ServicePort, addrs []netip.Addr, restricted bool) {
	spec := &svc.Spec
	number := uint16(port.Port)
	internal := spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	for _, addr := range addrs {
		f.add(service.Frontend{Addr: addr, Port: number, Scope: service.ScopeCluster, Local: internal})
	}
	// Clients inside take any backend: what policy Local is for, the client's address, they keep anyway.
	outside := func(addr netip.Addr, number uint16, restricted bool) {
		f.add(service.Frontend{Addr: addr, Port: number, Scope: service.ScopeCluster})
		f.add(service.Frontend{Addr: addr, Port: number, Scope: service.ScopeExternal, Local: externalLocal(spec), Restricted: restricted})
	}
	// Load-balancer addresses first: where one is an external IP too, its source ranges hold.
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // packets must pass through the load balancer itself
		}
		if addr, err := netip.ParseAddr(ingress.IP); err == nil && spec.Type == corev1.ServiceTypeLoadBalancer {
			outside(addr, number, restricted)
		}
	}
	for _, ip := range spec.ExternalIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			outside(addr, number, false)
		}
	}
	if port.NodePort == 0 || spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		outside(any, uint16(port.NodePort), false)
	}
}

func (f *frontends) add(frontend service.Frontend) {
	frontend.Addr, frontend.Protocol = frontend.Addr.Unmap(), f.protocol
	if !f.families[familyIndex(frontend.Addr)] {
		return
	}
	key := service.Frontend{Addr: frontend.Addr, Port: frontend.Port, Protocol: frontend.Protocol, Scope: frontend.Scope}
	if !f.seen[key] {
		f.seen[key] = true
		f.list = append(f.list, frontend)
	}
}

func familyIndex(addr netip.Addr) int {
	if addr.Is6() {
		return 1
	}
	return 0
}

func familiesOf(addrs []netip.Addr) (families [2]bool) {
	for _, a := range addrs {
		families[familyIndex(a)] = true
	}
	return families
}

func externalLocal(spec *corev1.ServiceSpec) bool {
	return spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func serviceName(svc *corev1.Service, port *corev1.ServicePort) string {
	name := svc.Namespace + "/" + svc.Name
	if port.Name != "" {
		name += ":" + port.Name
	}
	return name
}

// clusterAddrs are none if the service is not this proxy's business.
func clusterAddrs(svc *corev1.Service) (addrs []netip.Addr) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	for _, label := range []string{labelProxyName, labelHeadless} {
		if _, ok := svc.Labels[label]; ok {
			return nil
		}
	}
	all := svc.Spec.ClusterIPs
	if len(all) == 0 {
		all = []string{svc.Spec.ClusterIP}
	}
	for _, ip := range all {
		if addr, err := netip.ParseAddr(ip); err == nil {
			addrs = append(addrs, addr.Unmap())
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

package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// oldSourceRanges is the annotation that spec.loadBalancerSourceRanges replaced.
const oldSourceRanges = corev1.AnnotationLoadBalancerSourceRangesKey

// translation is what a service means on this node.
type translation struct {
	services []service.Service
	warnings []string // parts that are ignored, and why
	health   *health  // nil: no load balancer asks about it
}

// health is the answer to load balancers about a service with externalTrafficPolicy Local.
type health struct {
	port  uint16
	local int // ready endpoints on this node, whatever their port
}

// view is this node's state on which translation depends.
type view struct {
	node, zone string
	// draining says whether a pod of this node is about to end, which the API may not show yet.
	draining func(pod string) bool
	// reserved says why an address cannot be an endpoint; "" if it can.
	reserved func(netip.Addr) string
	// inside says why an address cannot be an external one; "" if it can.
	inside func(netip.Addr) string
	// host names the node that has an address; "" if none does.
	host func(netip.Addr) string
}

// translate turns a service into one of the plane per port. Services without cluster address (headless, external names) and
// those that another proxy serves become none.
func (v *view) translate(svc *corev1.Service, slices []any) translation {
	var t translation
	if len(servicespec.ClusterAddrs(svc)) == 0 {
		return t
	}
	spec := &svc.Spec
	reading := v.read(slices, spec.PublishNotReadyAddresses, &t)
	base := service.Service{AffinityTimeout: affinity(svc), Unconditional: spec.PublishNotReadyAddresses, Since: servicespec.Since(svc)}
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
		s.Name = servicespec.PortName(svc, port)
		s.Frontends = planeFrontends(v.outside(svc, port, &t), protocol, restricted)
		s.Backends = v.backends(reading, port, &t)
		t.services = append(t.services, s)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && servicespec.ExternalLocal(spec) && spec.HealthCheckNodePort != 0 {
		t.health = &health{port: uint16(spec.HealthCheckNodePort), local: v.localReady(reading)}
	}
	return t
}

// outside omits external frontends at addresses that are the cluster's own.
func (v *view) outside(svc *corev1.Service, port *corev1.ServicePort, t *translation) []servicespec.Frontend {
	list := servicespec.Frontends(svc, port)
	if !servicespec.HasExternal(svc) {
		return list
	}
	cluster := servicespec.ClusterAddrs(svc)
	return slices.DeleteFunc(list, func(f servicespec.Frontend) bool {
		why := ""
		if f.IsExternal(cluster) {
			why = v.inside(f.Addr)
		}
		if why != "" && f.Outside {
			t.warn("%s is ignored: %s", f, why)
		}
		return why != ""
	})
}

func (t *translation) warn(format string, args ...any) {
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// annotations reads Skep's own annotations. Invalid ones, which the API refuses, are ignored.
func (t *translation) annotations(svc *corev1.Service) (selection service.Selection, snat bool) {
	setting := func(name string) string {
		value, known := servicespec.Setting(svc.Annotations, name)
		if !known {
			t.warn("annotation %s: %q is not known; using %s", name, svc.Annotations[name], value)
		}
		return value
	}
	switch setting(servicespec.SelectionAnnotation) {
	case servicespec.LeastConnections:
		selection = service.LeastConnections
	case servicespec.Random:
		selection = service.Random
	case servicespec.Maglev:
		selection = service.Maglev
	}
	return selection, setting(servicespec.ForwardingAnnotation) == servicespec.SourceTranslation
}

// sourceRanges are the ranges of clients that may use a load balancer's addresses. An invalid range admits no client.
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

// planeFrontends are the frontends of one port; restricted says that the service's source ranges apply to its load-balancer
// addresses.
func planeFrontends(list []servicespec.Frontend, protocol service.Protocol, restricted bool) []service.Frontend {
	out := make([]service.Frontend, len(list))
	for i, f := range list {
		out[i] = service.Frontend{
			Addr: f.Addr, Port: f.Port, Protocol: protocol, Scope: service.ScopeCluster,
			Local: f.Local, Restricted: restricted && f.Outside && f.LoadBalancer, Given: f.Given,
		}
		if f.Outside {
			out[i].Scope = service.ScopeExternal
		}
	}
	return out
}

func familyIndex(addr netip.Addr) int {
	if addr.Is6() {
		return 1
	}
	return 0
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

// Package servicespec is how the control plane and the nodes read a Service, so that
// both come to the same answer: which addresses and ports it asks for, who has those
// that several ask for, what Skep's annotations may say, and which addresses cannot be
// endpoints. It only reads objects: it uses no API server and no kernel, and keeps no
// state.
package servicespec

import (
	"cmp"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels of services that other proxies serve.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = corev1.IsHeadlessService
)

// Frontend is an address that clients ask for. An unspecified address is every
// address of a node.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol corev1.Protocol
	Outside  bool // asked for from outside the cluster; else from within

	Local        bool // leads to the node's own backends only (traffic policy)
	LoadBalancer bool // bound by the service's source ranges
	Given        bool // the cluster gave the service this address
}

// Identity is the part of a frontend that only one service can have.
func (f Frontend) Identity() Frontend {
	f.Local, f.LoadBalancer, f.Given = false, false, false
	return f
}

func (f Frontend) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
}

// PortName names one port of a service in the data plane.
func PortName(svc *corev1.Service, port *corev1.ServicePort) string {
	name := svc.Namespace + "/" + svc.Name
	if port.Name != "" {
		name += ":" + port.Name
	}
	return name
}

// Since is the age of a claim to an address: when the object that makes it was created.
func Since(obj metav1.Object) int64 { return obj.GetCreationTimestamp().Unix() }

// Claim is what decides between several that ask for a frontend.
type Claim struct {
	Given bool
	Since int64
	Name  string // in the data plane
}

// Compare orders claims so that the first holds if several ask for a frontend: one that
// the cluster gave the address before one that only asks for it, then that of the older
// object, so that no address is taken from a service in use, and by name for objects of
// the same second.
func (c Claim) Compare(other Claim) int {
	given := 0
	if c.Given != other.Given {
		given = 1
	}
	if c.Given {
		given = -given
	}
	return cmp.Or(given, cmp.Compare(c.Since, other.Since), cmp.Compare(c.Name, other.Name))
}

// ClusterAddrs are the cluster addresses of a service; none if it has none (headless,
// external names) or another proxy serves it: then it has no frontends at all.
func ClusterAddrs(svc *corev1.Service) (addrs []netip.Addr) {
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

// ExternalLocal says whether connections from outside go only to pods of the node that they reach.
func ExternalLocal(spec *corev1.ServiceSpec) bool {
	return spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// Frontends are those of one port of a service, in the families of its cluster
// addresses, which come first. Each is there once.
func Frontends(svc *corev1.Service, port *corev1.ServicePort) []Frontend {
	addrs := ClusterAddrs(svc)
	if len(addrs) == 0 {
		return nil
	}
	c := collector{protocol: port.Protocol, seen: map[Frontend]bool{}}
	if c.protocol == "" {
		c.protocol = corev1.ProtocolTCP
	}
	for _, a := range addrs {
		c.six, c.four = c.six || a.Is6(), c.four || a.Is4()
	}
	spec := &svc.Spec
	internal := spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	for _, addr := range addrs {
		c.add(Frontend{Addr: addr, Port: uint16(port.Port), Local: internal, Given: true})
	}
	c.outside(svc, port)
	return c.list
}

// collector keeps each frontend once: the first policy wins.
type collector struct {
	protocol  corev1.Protocol
	four, six bool
	list      []Frontend
	seen      map[Frontend]bool
}

func (c *collector) outside(svc *corev1.Service, port *corev1.ServicePort) {
	spec := &svc.Spec
	// Clients inside the cluster get any backend: their address, which policy Local preserves, is preserved anyway.
	add := func(addr netip.Addr, number int32, balancer bool) {
		c.add(Frontend{Addr: addr, Port: uint16(number), Given: balancer})
		c.add(Frontend{Addr: addr, Port: uint16(number), Outside: true, Local: ExternalLocal(spec), LoadBalancer: balancer, Given: balancer})
	}
	// Load-balancer addresses first: if one is an external IP too, its source ranges apply.
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // packets must pass through the load balancer itself
		}
		if addr, err := netip.ParseAddr(ingress.IP); err == nil && spec.Type == corev1.ServiceTypeLoadBalancer {
			add(addr, port.Port, true)
		}
	}
	for _, ip := range spec.ExternalIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			add(addr, port.Port, false)
		}
	}
	if port.NodePort == 0 || spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for _, every := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		add(every, port.NodePort, false)
	}
}

func (c *collector) add(f Frontend) {
	f.Addr, f.Protocol = f.Addr.Unmap(), c.protocol
	if f.Addr.Is4() && !c.four || f.Addr.Is6() && !c.six || c.seen[f.Identity()] {
		return
	}
	c.seen[f.Identity()] = true
	c.list = append(c.list, f)
}

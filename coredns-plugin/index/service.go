package index

import (
	"net/netip"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Service is what DNS answers of one service. It is immutable.
type Service struct {
	Namespace, Name string
	// Addrs are the service's own addresses; empty for headless services and
	// ExternalName.
	Addrs []netip.Addr
	// Headless services answer with their endpoints.
	Headless bool
	// ExternalName is the target of the CNAME, without a trailing dot.
	ExternalName string
	// Ports are those of the service's own addresses.
	Ports []Port
	// Endpoints are the ready ones (all, where the service publishes addresses that
	// are not ready), ordered by address.
	Endpoints []Endpoint

	byHostname map[string][]*Endpoint
}

// Port is a named port; Protocol is lower case as in a SRV name, without the underscore.
type Port struct {
	Name, Protocol string
	Number         uint16
}

// Endpoint is one address behind a service.
type Endpoint struct {
	Addr netip.Addr
	// Label is the endpoint's name below the service's: the pod's hostname if it has
	// one, else the address with dashes.
	Label string
	Ports []Port
}

// Endpoint returns the endpoints whose label is given.
func (s *Service) Endpoint(label string) []*Endpoint { return s.byHostname[label] }

func build(svc *corev1.Service, slices map[string]*discoveryv1.EndpointSlice) *Service {
	s := &Service{Namespace: svc.Namespace, Name: svc.Name}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		s.ExternalName = strings.TrimSuffix(svc.Spec.ExternalName, ".")
		return s
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		s.Headless = true
	default:
		s.Addrs = clusterAddrs(svc)
	}
	for _, p := range svc.Spec.Ports {
		s.Ports = append(s.Ports, Port{Name: p.Name, Protocol: protocolLabel(&p.Protocol), Number: uint16(p.Port)})
	}
	s.Endpoints = endpoints(slices, svc.Spec.PublishNotReadyAddresses)
	s.byHostname = make(map[string][]*Endpoint, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		s.byHostname[e.Label] = append(s.byHostname[e.Label], e)
	}
	return s
}

func clusterAddrs(svc *corev1.Service) []netip.Addr {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// endpoints merges the slices: while a slice is being split or moved an address may
// be in two of them, and must be answered once, with the ports of both.
func endpoints(slices map[string]*discoveryv1.EndpointSlice, notReadyToo bool) []Endpoint {
	type id struct {
		addr  netip.Addr
		label string
	}
	found := map[id]*Endpoint{}
	for _, slice := range slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		ports := slicePorts(slice)
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if !notReadyToo && ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
				continue
			}
			for _, text := range ep.Addresses {
				addr, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				addr = addr.Unmap()
				k := id{addr, endpointLabel(ep, addr)}
				if found[k] == nil {
					found[k] = &Endpoint{Addr: addr, Label: k.label}
				}
				found[k].Ports = mergePorts(found[k].Ports, ports)
			}
		}
	}
	out := make([]Endpoint, 0, len(found))
	for _, e := range found {
		out = append(out, *e)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Addr != out[j].Addr {
			return out[i].Addr.Less(out[j].Addr)
		}
		return out[i].Label < out[j].Label
	})
	return out
}

func slicePorts(slice *discoveryv1.EndpointSlice) []Port {
	var ports []Port
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Port == nil {
			continue
		}
		port := Port{Number: uint16(*p.Port), Protocol: protocolLabel(p.Protocol)}
		if p.Name != nil {
			port.Name = *p.Name
		}
		ports = append(ports, port)
	}
	return ports
}

func mergePorts(have, more []Port) []Port {
next:
	for _, p := range more {
		for _, h := range have {
			if h == p {
				continue next
			}
		}
		have = append(have, p)
	}
	return have
}

func endpointLabel(ep *discoveryv1.Endpoint, addr netip.Addr) string {
	if ep.Hostname != nil && *ep.Hostname != "" {
		return strings.ToLower(*ep.Hostname)
	}
	return AddrLabel(addr)
}

// AddrLabel writes an address as one DNS label: 10-244-1-5, or fd00--1 for IPv6.
func AddrLabel(addr netip.Addr) string {
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	label := strings.ReplaceAll(addr.String(), ":", "-")
	// A label may neither begin nor end with a dash.
	if strings.HasPrefix(label, "-") {
		label = "0" + label
	}
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label
}

// ParseAddrLabel reads what AddrLabel writes.
func ParseAddrLabel(label string) (netip.Addr, bool) {
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
			return a, true
		}
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return a, err == nil
}

func protocolLabel(p *corev1.Protocol) string {
	if p == nil || *p == "" {
		return "tcp"
	}
	return strings.ToLower(string(*p))
}

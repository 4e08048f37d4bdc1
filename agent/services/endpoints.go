package services

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// endpoint is one endpoint of a slice, as this node uses it.
type endpoint struct {
	addr        netip.Addr
	node        string
	state       service.State
	terminating bool
	hints       *discoveryv1.EndpointHints
}

// readSlice is a slice whose addresses have been read once for all ports.
type readSlice struct {
	slice     *discoveryv1.EndpointSlice
	endpoints []endpoint
}

// read returns the usable endpoints of slices.
func (v *view) read(slices []any, publishNotReady bool, t *translation) []readSlice {
	out := make([]readSlice, 0, len(slices))
	for _, obj := range slices {
		slice := obj.(*discoveryv1.EndpointSlice)
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		r := readSlice{slice: slice, endpoints: make([]endpoint, 0, len(slice.Endpoints))}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0]) // the others name the same endpoint
			if err != nil {
				t.warn("endpoint %q in slice %s is ignored: it is not an address", e.Addresses[0], slice.Name)
				continue
			}
			addr = addr.Unmap().WithZone("")
			if why := v.reserved(addr); why != "" {
				t.warn("endpoint %s in slice %s is ignored: %s", addr, slice.Name, why)
				continue
			}
			terminating := ptr.Deref(e.Conditions.Terminating, false)
			state := stateOf(e.Conditions)
			if state == service.Active && !publishNotReady && e.TargetRef != nil && v.draining(string(e.TargetRef.UID)) {
				state, terminating = service.Terminating, true
			}
			r.endpoints = append(r.endpoints, endpoint{
				addr: addr, node: ptr.Deref(e.NodeName, ""), state: state, terminating: terminating, hints: e.Hints,
			})
		}
		out = append(out, r)
	}
	return out
}

// stateOf is the endpoint's state in the plane: a missing condition counts as ready and serving. A terminating endpoint that
// still serves is used if none is ready.
func stateOf(c discoveryv1.EndpointConditions) service.State {
	switch {
	case ptr.Deref(c.Ready, true):
		return service.Active
	case ptr.Deref(c.Serving, true) && ptr.Deref(c.Terminating, false):
		return service.Terminating
	}
	return service.Unready
}

// backends are the endpoints of one port. If two endpoints have the same address, the one that is not terminating counts: an
// address can be reused before all slices have dropped its previous pod.
func (v *view) backends(slices []readSlice, port *corev1.ServicePort, t *translation) []service.Backend {
	type place struct{ family, index int }
	var families [2][]*endpoint
	var ports [2][]uint16
	places := map[netip.AddrPort]place{}
	for i := range slices {
		number := targetPort(slices[i].slice, port)
		if number == 0 {
			continue
		}
		for j := range slices[i].endpoints {
			e := &slices[i].endpoints[j]
			if servicespec.Unwraps(port.Protocol, number) && v.host(e.addr) != "" {
				t.warn("endpoint %s of port %d is ignored: node %s decapsulates what arrives there, as from other nodes", netip.AddrPortFrom(e.addr, number), port.Port, v.host(e.addr))
				continue
			}
			key, f := netip.AddrPortFrom(e.addr, number), familyIndex(e.addr)
			if at, ok := places[key]; ok {
				if !e.terminating {
					families[at.family][at.index] = e
				}
				continue
			}
			places[key] = place{f, len(families[f])}
			families[f], ports[f] = append(families[f], e), append(ports[f], number)
		}
	}
	var out []service.Backend
	for f, endpoints := range families {
		near := v.nearest(endpoints)
		for i, e := range endpoints {
			out = append(out, service.Backend{
				Addr: e.addr, Port: ports[f][i], Node: e.node, State: e.state,
				Distant: e.state == service.Active && !near(e.hints),
			})
		}
	}
	return out
}

// targetPort is the slice's port with the service port's name; 0 if it has none.
func targetPort(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) uint16 {
	protocol := port.Protocol
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	for _, p := range slice.Ports {
		if ptr.Deref(p.Name, "") == port.Name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == protocol {
			return uint16(ptr.Deref(p.Port, 0))
		}
	}
	return 0
}

// nearest says which endpoints this node's clients use, by their hints: those for this node, if all ready ones have hints for
// nodes and one is for this node; else those for this zone on the same condition; else all (KEP-3015, KEP-2433).
func (v *view) nearest(endpoints []*endpoint) func(*discoveryv1.EndpointHints) bool {
	anywhere := func(*discoveryv1.EndpointHints) bool { return true }
	byNode, byZone, node, zone := true, true, false, false
	ready := false
	for _, e := range endpoints {
		if e.state != service.Active {
			continue
		}
		ready = true
		byNode, byZone = byNode && e.hints != nil && len(e.hints.ForNodes) > 0, byZone && e.hints != nil && len(e.hints.ForZones) > 0
		node, zone = node || forNode(e.hints, v.node), zone || forZone(e.hints, v.zone)
	}
	switch {
	case !ready:
		return anywhere
	case byNode && node:
		return func(h *discoveryv1.EndpointHints) bool { return forNode(h, v.node) }
	case byZone && zone:
		return func(h *discoveryv1.EndpointHints) bool { return forZone(h, v.zone) }
	}
	return anywhere
}

func forNode(h *discoveryv1.EndpointHints, node string) bool {
	if h != nil {
		for _, n := range h.ForNodes {
			if n.Name == node {
				return true
			}
		}
	}
	return false
}

func forZone(h *discoveryv1.EndpointHints, zone string) bool {
	if h != nil {
		for _, z := range h.ForZones {
			if z.Name == zone {
				return true
			}
		}
	}
	return false
}

// localReady counts the addresses on this node that are ready for some port.
func (v *view) localReady(slices []readSlice) int {
	local := map[netip.Addr]bool{}
	for _, s := range slices {
		for _, e := range s.endpoints {
			if e.node == v.node && e.state == service.Active {
				local[e.addr] = true
			}
		}
	}
	return len(local)
}

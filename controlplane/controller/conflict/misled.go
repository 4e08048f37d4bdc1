package conflict

import (
	"fmt"
	"net/netip"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// misled holds the endpoints at addresses where no endpoint can be.
type misled struct {
	mu sync.Mutex
	by map[controller.Key]map[string][]netip.Addr // service -> slice -> some of its bad endpoints
}

func newMisled() *misled { return &misled{by: map[controller.Key]map[string][]netip.Addr{}} }

// set takes over a changed slice and returns the services whose bad endpoints it changes.
func (m *misled) set(old, cur *discoveryv1.EndpointSlice, reserved func(netip.Addr) string) (concerned []controller.Key) {
	var bad []netip.Addr
	var owner controller.Key
	if cur != nil && cur.AddressType != discoveryv1.AddressTypeFQDN {
		owner, bad = ownerOf(cur), badEndpoints(cur, reserved)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old != nil {
		if before := ownerOf(old); m.drop(before, old.Name) {
			concerned = append(concerned, before)
		}
	}
	if len(bad) > 0 && owner.Name != "" {
		if m.by[owner] == nil {
			m.by[owner] = map[string][]netip.Addr{}
		}
		m.by[owner][cur.Name] = bad
		concerned = append(concerned, owner)
	}
	return concerned
}

func (m *misled) drop(owner controller.Key, slice string) bool {
	_, had := m.by[owner][slice]
	if delete(m.by[owner], slice); len(m.by[owner]) == 0 {
		delete(m.by, owner)
	}
	return had
}

func ownerOf(slice *discoveryv1.EndpointSlice) controller.Key {
	return controller.Key{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// badEndpoints returns as many bad endpoints as a message can name, and one more.
func badEndpoints(slice *discoveryv1.EndpointSlice, reserved func(netip.Addr) string) (bad []netip.Addr) {
	for i := range slice.Endpoints {
		if len(slice.Endpoints[i].Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(slice.Endpoints[i].Addresses[0])
		if err != nil {
			continue
		}
		if addr = addr.Unmap().WithZone(""); reserved(addr) != "" && len(bad) <= maxNamed {
			bad = append(bad, addr)
		}
	}
	return bad
}

// text describes a service's bad endpoints; "" if it has none.
func (m *misled) text(service controller.Key, reserved func(netip.Addr) string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for slice, bad := range m.by[service] {
		for _, addr := range bad {
			if why := reserved(addr); why != "" {
				lines = append(lines, fmt.Sprintf("endpoint %s in EndpointSlice %s is ignored: %s", addr, slice, why))
			}
		}
	}
	return enumerate(lines, "; its other endpoints work")
}

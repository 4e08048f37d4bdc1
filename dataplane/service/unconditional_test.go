package service

import (
	"net/netip"
	"testing"
)

// A withdrawal removes an address from ordinary services, not from unconditional ones.
func TestUnconditionalServiceKeepsWithdrawnBackend(t *testing.T) {
	addr := netip.MustParseAddr("10.244.1.2")
	for _, unconditional := range []bool{false, true} {
		tables := newTables("node1")
		f := Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: TCP, Scope: ScopeCluster}
		tables.set(Service{Name: "ns/web", Frontends: []Frontend{f}, Backends: []Backend{{Addr: addr, Port: 80}}, Unconditional: unconditional})
		tables.withdraw(addr, 1)
		backends := tables.desired("ns/web")[poolOf("ns/web", f)].backends
		if len(backends) != 1 || backends[0].inRun != unconditional {
			t.Errorf("unconditional %v: backends %+v", unconditional, backends)
		}
	}
}

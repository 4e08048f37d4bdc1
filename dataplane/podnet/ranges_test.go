package podnet

import (
	"net/netip"
	"strings"
	"testing"
)

// A range that is added while the host's pods run is reached from then on, with the pods' own addresses, by those that were there before
// too; until then nothing in it has a route, and what is in no range never gets one.
func TestPodRangeIsAdded(t *testing.T) {
	f := newFabric(t, 2)
	old := f.start(t, 0, f.config(0))
	cfg := f.config(1)
	cfg.PodCIDRs = prefixes("10.250.7.0/24", "fd00:10:250:7::/64")
	all := append(prefixes("10.250.0.0/16", "fd00:10:250::/48"), cfg.ClusterCIDRs...)
	cfg.ClusterCIDRs = all
	added := f.start(t, 1, cfg)
	here, there := newNamespace(t), newNamespace(t)
	a, b := f.attach(t, old, 0, "here", here), f.attach(t, added, 1, "there", there)
	sync := func() {
		f.hosts[0].Do(func() error {
			return old.SyncRoutes([]Peer{{Name: "added", NodeIPs: cfg.NodeIPs, PodCIDRs: cfg.PodCIDRs}})
		})
		f.hosts[1].Do(func() error { return added.SyncRoutes([]Peer{f.peer(0)}) })
	}
	sync()
	if routes := strings.Join(routesOf(t, f.hosts[0]), "\n"); strings.Contains(routes, "10.250.") {
		t.Errorf("a range that is not the cluster's yet has a route:\n%s", routes)
	}
	for _, wrong := range [][]netip.Prefix{nil, prefixes("10.250.0.0/16")} {
		f.hosts[0].Do(func() error {
			if err := old.SetClusterCIDRs(wrong); err == nil || !strings.Contains(err.Error(), "contains this node's") {
				t.Errorf("the cluster's ranges become %s, without this host's: %v", wrong, err)
			}
			return nil
		})
	}
	f.hosts[0].Do(func() error { return old.SetClusterCIDRs(all) })
	for i := range a.Addrs {
		port := there.greet(t, b.Addrs[i].String())
		if seen := here.mustCall(t, netip.AddrPortFrom(b.Addrs[i], port)); seen != a.Addrs[i].String() {
			t.Errorf("%s sees %s, want %s", b.Addrs[i], seen, a.Addrs[i])
		}
		port = here.greet(t, a.Addrs[i].String())
		if seen := there.mustCall(t, netip.AddrPortFrom(a.Addrs[i], port)); seen != b.Addrs[i].String() {
			t.Errorf("%s sees %s, want %s", a.Addrs[i], seen, b.Addrs[i])
		}
	}
	routes := podRoutes(t, here)
	for _, cidr := range []string{"10.250.0.0/16", "fd00:10:250::/48", "10.244.0.0/16"} {
		if _, ok := routes[cidr]; !ok {
			t.Errorf("the pod has no route to %s, but %v", cidr, routes)
		}
	}
	sync() // and again, as for every change of nodes
	if routes := strings.Join(routesOf(t, f.hosts[0]), "\n"); !strings.Contains(routes, "10.250.7.0/24 via") {
		t.Errorf("the added range has no route:\n%s", routes)
	}
}

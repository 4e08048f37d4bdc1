package podnet

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// A peer gets no route for ranges that are not its own: addresses outside of the cluster, this host's pods, or another peer's.
func TestRangesOfOthersGetNoRoute(t *testing.T) {
	f := newFabric(t, 1)
	var log bytes.Buffer
	cfg := f.config(0)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	n := f.start(t, 0, cfg)
	host := f.hosts[0]
	peer := func(name, address string, ranges ...string) Peer {
		return Peer{Name: name, NodeIPs: addrs(address), PodCIDRs: prefixes(ranges...)}
	}
	honest := peer("honest", "192.0.2.12", "10.244.7.0/24")
	host.Do(func() error { return n.SyncRoutes([]Peer{honest}) })
	before := routesOf(t, host)
	own := cfg.PodCIDRs[0]
	thief := func(ranges ...string) Peer { return peer("thief", "192.0.2.13", ranges...) }
	for _, claimed := range []string{
		"8.0.0.0/7", "0.0.0.0/0", "192.0.2.1/32", "10.96.0.0/16", "10.244.0.0/15", "10.0.0.0/8", // outside
		own.String(), netip.PrefixFrom(own.Addr(), own.Bits()+1).String(), "10.244.0.0/16", // this host's
		"10.244.7.0/24", "10.244.7.0/25", "10.244.7.128/32", "10.244.6.0/23", // the peer's
	} {
		log.Reset()
		for range 2 {
			for _, peers := range [][]Peer{{thief(claimed), honest}, {honest, thief(claimed)}} {
				host.Do(func() error { return n.SyncRoutes(peers) })
				if after := routesOf(t, host); !slices.Equal(after, before) {
					t.Errorf("thief claims %s: routes are\n%s\nwere\n%s", claimed, strings.Join(after, "\n"), strings.Join(before, "\n"))
				}
			}
		}
		if said := strings.Count(log.String(), "is ignored"); said != 1 || !strings.Contains(log.String(), "node=thief") {
			t.Errorf("thief claims %s: said %d times, want once:\n%s", claimed, said, log.String())
		}
	}
	// Of two that claim it at once neither gets it; when one is removed, the other does.
	both := []Peer{peer("a", "192.0.2.14", "10.244.9.0/24"), peer("b", "192.0.2.15", "10.244.9.0/24")}
	host.Do(func() error { return errors.Join(n.SyncRoutes(nil), n.SyncRoutes(both)) })
	if routes := strings.Join(routesOf(t, host), "\n"); strings.Contains(routes, "10.244.9.") {
		t.Errorf("a range that two claim has a route:\n%s", routes)
	}
	host.Do(func() error { return n.SyncRoutes(both[1:]) })
	if routes := strings.Join(routesOf(t, host), "\n"); !strings.Contains(routes, "10.244.9.0/24 via 192.0.2.15") {
		t.Errorf("the last to claim a range has no route:\n%s", routes)
	}
}

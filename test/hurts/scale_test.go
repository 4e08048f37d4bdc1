package hurts

import (
	"net/netip"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// 5,000 services with 250,000 endpoints took a proxy 2 to 13 minutes to write, 20 at worst, and each change after that wrote
// much of it again. kubernetes 135639.
func TestSyncOf250000Endpoints(t *testing.T) {
	const services, each = 5000, 50
	p := lab.Open(t, lab.Pins(t))
	address, endpoint := netip.MustParseAddr("10.96.0.0"), netip.MustParseAddr("10.128.0.0")
	all := make([]service.Service, services)
	for i := range all {
		address = address.Next()
		all[i] = service.Service{
			Name:      "default/s" + address.String() + ":http",
			Frontends: []service.Frontend{{Addr: address, Port: 80, Protocol: service.TCP}},
		}
		for range each {
			endpoint = endpoint.Next()
			all[i].Backends = append(all[i].Backends, service.Backend{Addr: endpoint, Port: 8080, Node: "node1"})
		}
	}
	began := time.Now()
	for _, s := range all {
		p.SetService(s)
	}
	lab.Flush(t, p)
	full := time.Since(began)
	if full > 30*time.Second {
		t.Errorf("a full sync took %v", full)
	}
	var most time.Duration
	lab.Host(t).Serve(t, service.TCP, one)
	for i := range 50 {
		changed := all[i*100]
		changed.Backends = []service.Backend{lab.Backend(one)}
		began := time.Now()
		p.SetService(changed)
		lab.Flush(t, p)
		most = max(most, time.Since(began))
		asked := netip.AddrPortFrom(changed.Frontends[0].Addr, 80).String()
		if name, err := lab.Ask("tcp4", asked); err != nil || name != one {
			t.Fatalf("%s answered by %q, %v", asked, name, err)
		}
	}
	if most > time.Second {
		t.Errorf("one change took %v", most)
	}
	t.Logf("full sync of %d endpoints in %v, a change in at most %v", services*each, full, most)
}

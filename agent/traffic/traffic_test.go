package traffic

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
)

type tables struct{ hash *ebpf.Map }

var (
	here  = netip.MustParseAddrPort("10.244.0.2:8080")
	there = netip.MustParseAddrPort("10.244.1.2:8080")
)

func (tables) Dump() (*service.Dump, error) {
	return &service.Dump{
		Services: []service.DumpService{{
			Name: "ns/web:http", Selection: "least-connections", Forwarding: "dsr", ID: 9, Connections: 7, Refused: 2, Failed: 3,
			Frontends: []service.DumpFrontend{{Address: netip.MustParseAddrPort("10.96.0.5:80"), Protocol: "TCP", Scope: "cluster"}},
		}},
		Backends: []service.DumpBackend{
			{Service: "ns/web:http", Address: here, Protocol: "TCP", Node: "me", State: "active", Local: true, Connections: 4, Failed: 3},
			{Service: "ns/web:http", Address: there, Protocol: "TCP", Node: "n1", State: "down", Connections: 3},
		},
		Counters: map[string]uint64{"translated": 7},
	}, nil
}

func (t tables) Maps() map[string]*ebpf.Map { return map[string]*ebpf.Map{"skep_test": t.hash} }

type counted struct{}

func (counted) Count() (map[census.Key]census.Connected, error) {
	return map[census.Key]census.Connected{
		{Service: 9, Backend: here, Protocol: service.TCP}: {Sockets: 2, Flows: 1, Weighed: 7, RoundTrip: 1500 * time.Microsecond, Timed: 2},
		{Service: 8, Backend: here, Protocol: service.TCP}: {Sockets: 5}, // of a service that is gone
	}, nil
}

type path struct{}

func (path) Traffic() ([]podpath.Traffic, error) {
	return []podpath.Traffic{{Backend: here, Protocol: service.TCP, ToPackets: 10, ToBytes: 1000, FromPackets: 20, FromBytes: 2000}}, nil
}
func (path) Counters() (map[string]uint64, error) {
	return map[string]uint64{"from_pod/forged": 5}, nil
}

func TestMetrics(t *testing.T) {
	hash, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 20, ValueSize: 3, MaxEntries: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	defer hash.Close()
	for i := range 10_000 { // more than are read at once
		if err := hash.Put([20]byte{byte(i), byte(i >> 8)}, [3]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister((&Sources{Node: "me", Plane: tables{hash}, Path: path{}, Census: counted{}}).Metrics())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				all.WriteString(" " + l.GetName() + "=" + l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			all.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
		}
	}
	for _, want := range []string{
		"skep_service_connections_total family=ipv4 protocol=TCP service=ns/web:http 7\n",
		"skep_service_failures_total family=ipv4 protocol=TCP reason=no_backend service=ns/web:http 2\n",
		"skep_service_failures_total family=ipv4 protocol=TCP reason=backend service=ns/web:http 3\n",
		"skep_service_active_connections family=ipv4 protocol=TCP service=ns/web:http 3\n",
		"skep_backend_failures_total backend=10.244.0.2:8080 family=ipv4 node=me protocol=TCP service=ns/web:http 3\n",
		"skep_backend_round_trip_seconds backend=10.244.0.2:8080 family=ipv4 node=me protocol=TCP service=ns/web:http 0.0015\n",
		"skep_backend_active_connections backend=10.244.1.2:8080 family=ipv4 node=n1 protocol=TCP service=ns/web:http 0\n",
		"skep_service_backends family=ipv4 protocol=TCP service=ns/web:http state=down 1\n",
		"skep_backend_active_connections backend=10.244.0.2:8080 family=ipv4 node=me protocol=TCP service=ns/web:http 3\n",
		"skep_backend_connections_total backend=10.244.1.2:8080 family=ipv4 node=n1 protocol=TCP service=ns/web:http 3\n",
		"skep_backend_bytes_total backend=10.244.0.2:8080 direction=from family=ipv4 node=me protocol=TCP service=ns/web:http 2000\n",
		"skep_backend_packets_total backend=10.244.0.2:8080 direction=to family=ipv4 node=me protocol=TCP service=ns/web:http 10\n",
		"skep_program_outcomes_total program=from_pod reason=forged 5\n",
		"skep_program_outcomes_total program=socket reason=translated 7\n",
		"skep_map_capacity map=skep_test 20000\n",
		"skep_map_entries map=skep_test 10000\n",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(all.String(), "skep_backend_packets_total backend=10.244.1.2") {
		t.Error("packets of a backend that runs elsewhere")
	}
	if t.Failed() {
		t.Log("have:\n" + all.String())
	}
}

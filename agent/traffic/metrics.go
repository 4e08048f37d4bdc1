package traffic

import (
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// Metrics exposes a node's counters. There is a row for each service port and family, and for each of its backends: a cluster
// of 10,000 services with 10 backends each has 110,000 rows per node and metric. If that is too much, drop the skep_backend_
// metrics and keep skep_service_, which have a tenth.
func (s *Sources) Metrics() prometheus.Collector { return metrics{s} }

type metrics struct{ s *Sources }

var (
	serviceLabels = []string{"service", "protocol", "family"}
	reasonLabels  = append(serviceLabels[:3:3], "reason")
	backendLabels = append(serviceLabels[:3:3], "backend", "node")
)

var (
	serviceConnections = prometheus.NewDesc("skep_service_connections_total", "Connections to the service for which this node chose the backend.", serviceLabels, nil)
	serviceFailures    = prometheus.NewDesc("skep_service_failures_total", "Connections that found no backend (no_backend), or that one refused or left unanswered (backend).", reasonLabels, nil)
	serviceActive      = prometheus.NewDesc("skep_service_active_connections", "Open connections of this node's sockets, and from outside to this node's backends.", serviceLabels, nil)
	serviceBackends    = prometheus.NewDesc("skep_service_backends", "Backends by state.", append(serviceLabels[:3:3], "state"), nil)
	backendConnections = prometheus.NewDesc("skep_backend_connections_total", "Connections for which this node chose the backend.", backendLabels, nil)
	backendFailures    = prometheus.NewDesc("skep_backend_failures_total", "Connections that the backend refused or left unanswered.", backendLabels, nil)
	backendActive      = prometheus.NewDesc("skep_backend_active_connections", "Open connections of this node's sockets, and from outside if it runs here.", backendLabels, nil)
	backendRoundTrip   = prometheus.NewDesc("skep_backend_round_trip_seconds", "Mean round-trip time of this node's open TCP connections to the backend.", backendLabels, nil)
	backendPackets     = prometheus.NewDesc("skep_backend_packets_total", "Packets to and from the backend, counted where it runs.", append(backendLabels[:5:5], "direction"), nil)
	backendBytes       = prometheus.NewDesc("skep_backend_bytes_total", "Bytes to and from the backend, link headers included, counted where it runs.", append(backendLabels[:5:5], "direction"), nil)
	outcomes           = prometheus.NewDesc("skep_program_outcomes_total", "Packets (connections, for the program \"socket\") by why a program let go of them.", []string{"program", "reason"}, nil)
	uplinkServes       = prometheus.NewDesc("skep_uplink_serves", "1 where the program that serves clients outside runs at an uplink, 0 where it does not.", []string{"uplink", "xdp"}, nil)
	mapCapacity        = prometheus.NewDesc("skep_map_capacity", "Entries that a kernel map can hold.", []string{"map"}, nil)
	mapEntries         = prometheus.NewDesc("skep_map_entries", "Entries in a kernel map whose number changes.", []string{"map"}, nil)
	mapBytes           = prometheus.NewDesc("skep_map_bytes", "Memory that the kernel counts for a map.", []string{"map"}, nil)
)

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		serviceConnections, serviceFailures, serviceActive, serviceBackends, backendConnections, backendFailures, backendActive,
		backendRoundTrip, backendPackets, backendBytes,
		outcomes, uplinkServes, mapCapacity, mapEntries, mapBytes,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	report, err := m.s.Read()
	if err != nil {
		slog.Error("data plane not measured", "err", err)
		ch <- prometheus.NewInvalidMetric(serviceConnections, err)
		return
	}
	for i := range report.Services {
		collectService(ch, &report.Services[i])
	}
	for program, reasons := range report.Programs {
		for reason, n := range reasons {
			ch <- prometheus.MustNewConstMetric(outcomes, prometheus.CounterValue, float64(n), program, reason)
		}
	}
	for _, u := range report.Uplinks {
		serves := 0.0
		if u.Problem == "" {
			serves = 1
		}
		ch <- prometheus.MustNewConstMetric(uplinkServes, prometheus.GaugeValue, serves, u.Name, u.XDP)
	}
	collectMaps(ch, m.s.Plane.Maps())
	if m.s.Flows != nil {
		collectMaps(ch, without(m.s.Flows.Maps(), m.s.Plane.Maps()))
	}
}

func collectService(ch chan<- prometheus.Metric, s *skepv1.Service) {
	if len(s.Frontends) == 0 {
		return
	}
	family := "ipv6"
	if s.Frontends[0].Address.Addr().Is4() {
		family = "ipv4"
	}
	labels := []string{s.Name, s.Frontends[0].Protocol, family}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value uint64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(value), append(labels[:3:3], more...)...)
	}
	send(serviceConnections, prometheus.CounterValue, s.Connections)
	send(serviceFailures, prometheus.CounterValue, s.Refused, "no_backend")
	send(serviceFailures, prometheus.CounterValue, s.Failures-s.Refused, "backend")
	var active uint64
	states := map[string]uint64{}
	for _, b := range s.Backends {
		states[b.State]++
		who := []string{b.Address.String(), b.Node}
		send(backendConnections, prometheus.CounterValue, b.Connections, who...)
		send(backendFailures, prometheus.CounterValue, b.Failures, who...)
		send(backendActive, prometheus.GaugeValue, uint64(b.Active), who...)
		active += uint64(b.Active)
		if b.Timed > 0 {
			ch <- prometheus.MustNewConstMetric(backendRoundTrip, prometheus.GaugeValue, b.RoundTrip.Seconds(), append(labels[:3:3], who...)...)
		}
		if !b.Local {
			continue
		}
		for direction, n := range map[string][2]uint64{"to": {b.ToPackets, b.ToBytes}, "from": {b.FromPackets, b.FromBytes}} {
			send(backendPackets, prometheus.CounterValue, n[0], append(who[:2:2], direction)...)
			send(backendBytes, prometheus.CounterValue, n[1], append(who[:2:2], direction)...)
		}
	}
	send(serviceActive, prometheus.GaugeValue, active)
	for state, n := range states {
		send(serviceBackends, prometheus.GaugeValue, n, state)
	}
}

func without(all, known map[string]*ebpf.Map) map[string]*ebpf.Map {
	rest := map[string]*ebpf.Map{}
	for name, m := range all {
		if known[name] == nil {
			rest[name] = m
		}
	}
	return rest
}

func collectMaps(ch chan<- prometheus.Metric, all map[string]*ebpf.Map) {
	for name, m := range all {
		ch <- prometheus.MustNewConstMetric(mapCapacity, prometheus.GaugeValue, float64(m.MaxEntries()), name)
		if info, err := m.Info(); err == nil {
			if bytes, ok := info.Memlock(); ok {
				ch <- prometheus.MustNewConstMetric(mapBytes, prometheus.GaugeValue, float64(bytes), name)
			}
		}
		if n, counted, err := entries(m); err != nil {
			slog.Warn("map not counted", "map", name, "err", err)
		} else if counted {
			ch <- prometheus.MustNewConstMetric(mapEntries, prometheus.GaugeValue, float64(n), name)
		}
	}
}

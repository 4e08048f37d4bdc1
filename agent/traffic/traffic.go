// Package traffic reports the data plane's counters: connections, failures, open connections, round-trip times, packets and bytes
// by service and backend, and packets by outcome of the programs; as JSON for the command line and as Prometheus metrics.
//
// It only reads. It never changes a map, and keeps nothing between requests except how full the maps were.
package traffic

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/cilium/ebpf"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/events"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/service"
)

// Plane has the services.
type Plane interface {
	Dump() (*service.Dump, error)
	Maps() map[string]*ebpf.Map
}

// Path counts packets at pods' interfaces.
type Path interface {
	Traffic() ([]podpath.Traffic, error)
	Counters() (map[string]uint64, error)
}

// Flows counts packets at uplinks.
type Flows interface {
	Counters() (map[string]uint64, error)
	Maps() map[string]*ebpf.Map
	Uplinks() []flow.Uplink
}

// Census counts open connections.
type Census interface {
	Count() (map[census.Key]census.Connected, error)
}

// Sources are the parts of a node's data plane.
type Sources struct {
	Node   string
	Plane  Plane
	Path   Path
	Census Census
	Log    *events.Log // of connections that failed
	Flows  Flows       // nil if no program is attached to uplinks
	// Programming says how long changes of endpoints took to reach the maps; nil: it is not measured.
	Programming func() []skepv1.Bucket
}

// Programs whose outcomes are counted, beside those at pods' interfaces.
const (
	socketProgram = "socket"
	uplinkProgram = "uplink"
)

// Read reads the counters.
func (s *Sources) Read() (*skepv1.Report, error) {
	dump, err := s.Plane.Dump()
	if err != nil {
		return nil, fmt.Errorf("service tables: %w", err)
	}
	traffic, err := s.Path.Traffic()
	if err != nil {
		return nil, err
	}
	connected, err := s.Census.Count()
	if err != nil {
		return nil, err
	}
	r := &skepv1.Report{Node: s.Node, Services: servicesOf(dump, traffic, connected), Programs: map[string]map[string]uint64{socketProgram: dump.Counters}}
	paths, err := s.Path.Counters()
	if err != nil {
		return nil, err
	}
	addPrograms(r.Programs, paths, "")
	if s.Programming != nil {
		r.Programming = s.Programming()
	}
	if s.Flows != nil {
		flows, err := s.Flows.Counters()
		if err != nil {
			return nil, err
		}
		addPrograms(r.Programs, flows, uplinkProgram)
		r.Uplinks = uplinksOf(s.Flows.Uplinks())
	}
	return r, nil
}

// addPrograms sorts counters named PROGRAM/REASON, or REASON of the given program.
func addPrograms(into map[string]map[string]uint64, counters map[string]uint64, program string) {
	for name, n := range counters {
		p, reason, found := strings.Cut(name, "/")
		if !found {
			p, reason = program, name
		}
		if into[p] == nil {
			into[p] = map[string]uint64{}
		}
		into[p][reason] = n
	}
}

func uplinksOf(all []flow.Uplink) []skepv1.Uplink {
	list := make([]skepv1.Uplink, len(all))
	for i, u := range all {
		list[i] = skepv1.Uplink{Name: u.Name, XDP: u.XDP}
		if u.Err != nil {
			list[i].Problem = u.Err.Error()
		}
	}
	return list
}

// poolOf is the key by which a dump's backends belong to services.
type poolOf struct {
	name, protocol string
	is4            bool
}

func servicesOf(dump *service.Dump, traffic []podpath.Traffic, connected map[census.Key]census.Connected) []skepv1.Service {
	type place struct {
		addr     netip.AddrPort
		protocol string
	}
	passed := map[place]podpath.Traffic{}
	for _, t := range traffic {
		passed[place{t.Backend, t.Protocol.String()}] = t
	}
	open := connectedByName(dump, connected)
	backends := map[poolOf][]skepv1.Backend{}
	for _, b := range dump.Backends {
		now := open[connectedTo{b.Service, b.Address, b.Protocol}]
		t := passed[place{b.Address, b.Protocol}]
		key := poolOf{b.Service, b.Protocol, b.Address.Addr().Is4()}
		backends[key] = append(backends[key], skepv1.Backend{
			Address: b.Address, Protocol: b.Protocol, Node: b.Node, State: b.State, Local: b.Local,
			Connections: b.Connections, Failures: b.Failed, Active: now.Sockets + now.Flows, RoundTrip: now.RoundTrip, Timed: now.Timed,
			ToPackets: t.ToPackets, ToBytes: t.ToBytes, FromPackets: t.FromPackets, FromBytes: t.FromBytes,
		})
	}
	out := make([]skepv1.Service, 0, len(dump.Services))
	for _, d := range dump.Services {
		s := skepv1.Service{
			Name: d.Name, Frontends: frontendsOf(d.Frontends), Selection: d.Selection, Forwarding: d.Forwarding,
			Connections: d.Connections, Failures: d.Refused + d.Failed, Refused: d.Refused, Backends: []skepv1.Backend{},
		}
		if len(d.Frontends) > 0 {
			f := d.Frontends[0]
			if have := backends[poolOf{d.Name, f.Protocol, f.Address.Addr().Is4()}]; have != nil {
				s.Backends = have
			}
		}
		out = append(out, s)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func frontendsOf(dumped []service.DumpFrontend) []skepv1.Frontend {
	list := make([]skepv1.Frontend, len(dumped))
	for i, f := range dumped {
		list[i] = skepv1.Frontend(f)
	}
	return list
}

// connectedTo is a backend of a service, by name.
type connectedTo struct {
	service  string
	backend  netip.AddrPort
	protocol string
}

// connectedByName omits connections to services that were removed.
func connectedByName(dump *service.Dump, connected map[census.Key]census.Connected) map[connectedTo]census.Connected {
	names := make(map[uint32]string, len(dump.Services))
	for _, s := range dump.Services {
		names[s.ID] = s.Name
	}
	open := make(map[connectedTo]census.Connected, len(connected))
	for key, one := range connected {
		if name, there := names[key.Service]; there {
			open[connectedTo{name, key.Backend, key.Protocol.String()}] = one
		}
	}
	return open
}

// Tables are the content of a node's service maps.
type Tables struct {
	Node string `json:"node"`
	*service.Dump
}

// Dump reads all of them.
func (s *Sources) Dump() (*Tables, error) {
	dump, err := s.Plane.Dump()
	if err != nil {
		return nil, fmt.Errorf("service tables: %w", err)
	}
	return &Tables{Node: s.Node, Dump: dump}, nil
}

// Events calls each with the connections that failed recently; with follow also with new ones, until ctx ends.
func (s *Sources) Events(ctx context.Context, follow bool, each func(skepv1.Event) error) error {
	if follow {
		return s.Log.Follow(ctx, func(e events.Event) error { return each(eventOf(e)) })
	}
	for _, e := range s.Log.Recent() {
		if err := each(eventOf(e)); err != nil {
			return err
		}
	}
	return nil
}

func eventOf(e events.Event) skepv1.Event {
	return skepv1.Event{
		Time: e.Time, Kind: e.Kind, Message: e.String(), Service: e.Service, Protocol: e.Protocol,
		Client: e.Client, Process: e.Process, Command: e.Command, Asked: e.Asked, Backend: e.Backend,
	}
}

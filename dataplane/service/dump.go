package service

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
)

// Dump is what the maps hold, in an order that depends on nothing else.
type Dump struct {
	Layout   uint32            `json:"layout"`
	Services []DumpService     `json:"services"`
	Backends []DumpBackend     `json:"backends"`
	Nodes    []DumpNode        `json:"nodes"`
	Counters map[string]uint64 `json:"counters"` // by reason, all CPUs together
}

// DumpService is one service port in one address family.
type DumpService struct {
	Name        string           `json:"name"`
	ID          uint32           `json:"id"`
	Frontends   []DumpFrontend   `json:"frontends"`
	Slots       []netip.AddrPort `json:"slots"` // in the order of their turns
	Connections uint64           `json:"connections"`
	Refused     uint64           `json:"refused"`
}

// DumpFrontend is an address that leads to a service.
type DumpFrontend struct {
	Address         netip.AddrPort `json:"address"`
	Protocol        string         `json:"protocol"`
	Scope           string         `json:"scope"`
	AffinitySeconds uint32         `json:"affinitySeconds,omitempty"`
}

// DumpBackend is one backend of one service.
type DumpBackend struct {
	ID          uint32         `json:"id"`
	Service     string         `json:"service"`
	Address     netip.AddrPort `json:"address"`
	Protocol    string         `json:"protocol"`
	Node        string         `json:"node,omitempty"`
	State       string         `json:"state"` // active, down (its node is), draining (no slot)
	Shared      bool           `json:"shared,omitempty"`
	Connections uint64         `json:"connections"`
}

// DumpNode is a node that has backends.
type DumpNode struct {
	Name string `json:"name"`
	ID   uint32 `json:"id"`
	Down bool   `json:"down"`
}

// Dump reads the maps. It may run while they change: each service is then seen
// as it was or as it becomes.
func (p *Plane) Dump() (*Dump, error) { return p.maps.dump() }

// DumpPinned reads the maps that any process has pinned, and changes nothing.
func DumpPinned(pinDir string) (*Dump, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	m, err := loadPinned(filepath.Join(pinDir, currentPins), spec, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no service tables in %s: is the agent of this node running? (%w)", pinDir, err)
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.dump()
}

// dumper collects while it walks from frontends to slots to backends.
type dumper struct {
	m        *kernelMaps
	names    map[bpf.SocketNameKey]bpf.SocketName
	services map[uint32]*DumpService
	backends map[uint32]bpf.SocketBackend
	slotted  map[uint32]bool
}

func (m *kernelMaps) dump() (*Dump, error) {
	layout, _, err := m.layout.get(0)
	if err != nil {
		return nil, err
	}
	names, err := m.names.all()
	if err != nil {
		return nil, err
	}
	d := &dumper{
		m:        m,
		names:    names,
		services: map[uint32]*DumpService{},
		backends: map[uint32]bpf.SocketBackend{},
		slotted:  map[uint32]bool{},
	}
	if err := d.walkFrontends(); err != nil {
		return nil, err
	}
	if err := d.walkReverse(); err != nil {
		return nil, err
	}
	out := &Dump{Layout: uint32(layout.Version), Services: []DumpService{}}
	for _, s := range d.services {
		slices.SortFunc(s.Frontends, func(a, b DumpFrontend) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
		})
		out.Services = append(out.Services, *s)
	}
	slices.SortFunc(out.Services, func(a, b DumpService) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Frontends[0].Address.Compare(b.Frontends[0].Address), cmp.Compare(a.ID, b.ID))
	})
	if out.Nodes, err = d.nodes(); err != nil {
		return nil, err
	}
	if out.Backends, err = d.listBackends(out.Nodes); err != nil {
		return nil, err
	}
	out.Counters, err = m.counters()
	return out, err
}

func (d *dumper) walkFrontends() error {
	services, err := d.m.services.all()
	if err != nil {
		return err
	}
	for key, index := range services {
		record, ok, err := d.m.frontends.get(index)
		if err != nil {
			return err
		}
		if !ok || record.Key != key {
			continue // replaced since the walk began
		}
		f := fromNetwork(key)
		s := d.services[record.Service]
		if s == nil {
			if s, err = d.service(record); err != nil {
				return err
			}
		}
		s.Frontends = append(s.Frontends, DumpFrontend{
			Address:         netip.AddrPortFrom(f.Addr, f.Port),
			Protocol:        f.Protocol.String(),
			Scope:           f.Scope.String(),
			AffinitySeconds: record.AffinitySeconds,
		})
	}
	return nil
}

func (d *dumper) service(record bpf.SocketFrontendRecord) (*DumpService, error) {
	s := &DumpService{ID: record.Service, Name: decodeName(d.names[serviceName(record.Service)]), Slots: []netip.AddrPort{}}
	state, _, err := d.m.cursors.get(record.Service)
	if err != nil {
		return nil, err
	}
	s.Connections, s.Refused = state.Connections, state.Refused
	slots, err := d.m.readSlots(run{base: record.SlotBase, count: record.SlotCount})
	if err != nil {
		return nil, err
	}
	for _, id := range slots {
		if err := d.backend(id); err != nil {
			return nil, err
		}
		d.slotted[id] = true
		b := fromNetwork(d.backends[id].Key)
		s.Slots = append(s.Slots, netip.AddrPortFrom(b.Addr, b.Port))
	}
	d.services[record.Service] = s
	return s, nil
}

func (d *dumper) backend(id uint32) error {
	record, _, err := d.m.backends.get(id)
	d.backends[id] = record
	return err
}

// walkReverse finds the backends that have no slot but may have connections.
func (d *dumper) walkReverse() error {
	reverse, err := d.m.reverse.all()
	if err != nil {
		return err
	}
	for _, id := range reverse {
		if err := d.backend(id); err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) nodes() ([]DumpNode, error) {
	nodes := []DumpNode{}
	for key, text := range d.names {
		if key.Kind != bpf.SocketNameKindNAME_NODE {
			continue
		}
		record, _, err := d.m.nodes.get(key.Id)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, DumpNode{Name: decodeName(text), ID: key.Id, Down: record.Down != 0})
	}
	slices.SortFunc(nodes, func(a, b DumpNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return nodes, nil
}

func (d *dumper) listBackends(nodes []DumpNode) ([]DumpBackend, error) {
	byID := map[uint32]DumpNode{}
	for _, n := range nodes {
		byID[n.ID] = n
	}
	backends := []DumpBackend{}
	for id, record := range d.backends {
		connections, _, err := d.m.connections.get(id)
		if err != nil {
			return nil, err
		}
		f, n := fromNetwork(record.Key), byID[record.Node]
		state := "draining"
		switch {
		case d.slotted[id] && n.Down:
			state = "down"
		case d.slotted[id]:
			state = "active"
		}
		backends = append(backends, DumpBackend{
			ID:          id,
			Service:     decodeName(d.names[serviceName(record.Service)]),
			Address:     netip.AddrPortFrom(f.Addr, f.Port),
			Protocol:    f.Protocol.String(),
			Node:        n.Name,
			State:       state,
			Shared:      record.Flags&bpf.SocketBackendFlagsBACKEND_SHARED != 0,
			Connections: connections,
		})
	}
	slices.SortFunc(backends, func(a, b DumpBackend) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.ID, b.ID))
	})
	return backends, nil
}

// counterLabels names every counter; the index is enum counter.
var counterLabels = [bpf.SocketCounterCOUNTER_COUNT]string{
	bpf.SocketCounterREASON_TRANSLATED:       "translated",
	bpf.SocketCounterREASON_NO_SERVICE:       "no_service",
	bpf.SocketCounterREASON_NO_BACKEND:       "no_backend",
	bpf.SocketCounterREASON_BACKENDS_DOWN:    "backends_down",
	bpf.SocketCounterREASON_BACKEND_MISSING:  "backend_missing",
	bpf.SocketCounterREASON_FRONTEND_STALE:   "frontend_stale",
	bpf.SocketCounterREASON_FAMILY_MISMATCH:  "family_mismatch",
	bpf.SocketCounterREASON_OTHER_PROTOCOL:   "other_protocol",
	bpf.SocketCounterREASON_NO_LOCAL_BACKEND: "no_local_backend",
	bpf.SocketCounterREASON_SOURCE_REFUSED:   "source_refused",
	bpf.SocketCounterREASON_REVERSED:         "reversed",
	bpf.SocketCounterREASON_NOT_REVERSED:     "not_reversed",
	bpf.SocketCounterEVENT_NODE_DOWN_SKIPPED: "node_down_skipped",
	bpf.SocketCounterEVENT_AFFINITY_HIT:      "affinity_hit",
	bpf.SocketCounterEVENT_ORIGIN_STORED:     "origin_stored",
}

func (m *kernelMaps) counters() (map[string]uint64, error) {
	totals := map[string]uint64{}
	for id, label := range counterLabels {
		var perCPU []uint64
		if err := m.objects.SkepCounters.Lookup(uint32(id), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", label, err)
		}
		for _, n := range perCPU {
			totals[label] += n
		}
	}
	return totals, nil
}

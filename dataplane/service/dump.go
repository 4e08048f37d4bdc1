package service

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/skep-io/skep/bpf"
)

// Dump is what the maps hold, in an order that depends on their content only.
type Dump struct {
	Layout    uint32            `json:"layout"`
	Services  []DumpService     `json:"services"`
	Backends  []DumpBackend     `json:"backends"`
	Nodes     []DumpNode        `json:"nodes"`
	Addresses []DumpAddress     `json:"addresses"`
	Counters  map[string]uint64 `json:"counters"` // by reason, all CPUs together
}

// DumpService is one service port in one address family.
type DumpService struct {
	Name        string           `json:"name"`
	ID          uint32           `json:"id"`
	Frontends   []DumpFrontend   `json:"frontends"`
	Selection   string           `json:"selection"`
	Forwarding  string           `json:"forwarding"` // dsr or snat
	Slots       []netip.AddrPort `json:"slots"`      // in the order of their turns
	LocalSlots  []netip.AddrPort `json:"localSlots"` // those of this node
	Sources     []netip.Prefix   `json:"sources,omitempty"`
	Connections uint64           `json:"connections"`
	Refused     uint64           `json:"refused"` // connections that found no backend
	Failed      uint64           `json:"failed"`  // connections that a backend refused or left unanswered
}

// DumpFrontend is an address that leads to a service.
type DumpFrontend struct {
	Address         netip.AddrPort `json:"address"`
	Protocol        string         `json:"protocol"`
	Scope           string         `json:"scope"`
	AffinitySeconds uint32         `json:"affinitySeconds,omitempty"`
	Local           bool           `json:"local,omitempty"`
	Restricted      bool           `json:"restricted,omitempty"`
	Primary         bool           `json:"primary,omitempty"`
}

// DumpBackend is one backend of one service.
type DumpBackend struct {
	ID          uint32         `json:"id"`
	Service     string         `json:"service"`
	Address     netip.AddrPort `json:"address"`
	Protocol    string         `json:"protocol"`
	Node        string         `json:"node,omitempty"`
	State       string         `json:"state"`           // active, down (its node is), local (by traffic policy Local only), draining (no slot)
	Local       bool           `json:"local,omitempty"` // on this node
	Connections uint64         `json:"connections"`
	Failed      uint64         `json:"failed"` // connections that it refused or left unanswered
	Weight      int32          `json:"weight"` // sockets and flows, with least connections only
}

// DumpNode is a node that has backends.
type DumpNode struct {
	Name      string       `json:"name"`
	ID        uint32       `json:"id"`
	Down      bool         `json:"down"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// DumpAddress is an address of this or another node.
type DumpAddress struct {
	Address netip.Addr `json:"address"`
	Own     bool       `json:"own,omitempty"`
	Peer    bool       `json:"peer,omitempty"`
}

// Dump reads the maps. It may run while they change: each service is then seen
// as it was or as it becomes.
func (p *Plane) Dump() (*Dump, error) { return p.maps.dump() }

// ServiceName is the name of a service by its id in the maps; for one that was
// removed, a name that says so.
func (p *Plane) ServiceName(id uint32) string {
	p.maps.mu.RLock()
	defer p.maps.mu.RUnlock()
	if name, ok, err := p.maps.names.Get(serviceName(id)); ok && err == nil {
		return decodeName(name)
	}
	return fmt.Sprintf("(service %d, which is gone)", id)
}

// DumpPinned reads the maps that any process has pinned, and changes nothing.
func DumpPinned(pinDir string) (*Dump, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	m, err := loadPinned(filepath.Join(pinDir, currentPins), spec, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no service tables in %s: is the agent of this node running? (%w)", pinDir, err)
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.dump()
}

// dumper collects while it walks from frontends to runs to backends.
type dumper struct {
	m        *kernelMaps
	names    map[bpf.SocketNameKey]bpf.SocketName
	services map[uint32]*DumpService
	backends map[uint32]bpf.SocketBackend
}

func (m *kernelMaps) dump() (*Dump, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, errors.New("data plane is closed")
	}
	layout, _, err := m.layout.Get(0)
	if err != nil {
		return nil, err
	}
	names, err := m.names.All()
	if err != nil {
		return nil, err
	}
	d := &dumper{m: m, names: names, services: map[uint32]*DumpService{}, backends: map[uint32]bpf.SocketBackend{}}
	d.walkFrontends()
	if err := d.walkReverse(); err != nil {
		return nil, err
	}
	if err := d.walkSources(); err != nil {
		return nil, err
	}
	out := &Dump{Layout: uint32(layout.Version), Services: d.listServices()}
	if out.Nodes, err = d.nodes(); err != nil {
		return nil, err
	}
	if out.Addresses, err = d.addresses(); err != nil {
		return nil, err
	}
	out.Backends = d.listBackends(out.Nodes)
	out.Counters, err = m.counters()
	return out, err
}

func (d *dumper) listServices() []DumpService {
	services := []DumpService{}
	for _, s := range d.services {
		slices.SortFunc(s.Frontends, func(a, b DumpFrontend) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
		})
		slices.SortFunc(s.Sources, netip.Prefix.Compare)
		services = append(services, *s)
	}
	slices.SortFunc(services, func(a, b DumpService) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Frontends[0].Address.Compare(b.Frontends[0].Address), cmp.Compare(a.ID, b.ID))
	})
	return services
}

func (d *dumper) walkFrontends() {
	for key, e := range d.m.frontends.all() {
		record := d.m.services.at(e.service)
		if record == nil {
			continue
		}
		f := fromNetwork(key)
		s := d.services[e.service]
		if s == nil {
			s = d.service(e.service, record)
		}
		s.Frontends = append(s.Frontends, DumpFrontend{
			Address:         netip.AddrPortFrom(f.Addr, f.Port),
			Protocol:        f.Protocol.String(),
			Scope:           f.Scope.String(),
			AffinitySeconds: atomic.LoadUint32(&record.AffinitySeconds),
			Local:           e.flags&bpf.SocketFrontendFlagsFRONTEND_LOCAL != 0,
			Restricted:      e.flags&bpf.SocketFrontendFlagsFRONTEND_RESTRICTED != 0,
			Primary:         e.flags&bpf.SocketFrontendFlagsFRONTEND_PRIMARY != 0,
		})
	}
}

func (d *dumper) service(id uint32, record *bpf.SocketService) *DumpService {
	flags := bpf.SocketServiceFlags(atomic.LoadUint32((*uint32)(&record.Flags)))
	s := &DumpService{
		ID:          id,
		Name:        decodeName(d.names[serviceName(id)]),
		Selection:   Selection(flags & bpf.SocketServiceFlagsSELECT_MASK).String(),
		Forwarding:  "dsr",
		Slots:       d.slots(atomic.LoadUint64(&record.Run)),
		LocalSlots:  d.slots(atomic.LoadUint64(&record.LocalRun)),
		Connections: atomic.LoadUint64(&record.Connections),
		Refused:     atomic.LoadUint64(&record.Refused),
		Failed:      uint64(atomic.LoadUint32(&record.Failed)),
	}
	if flags&bpf.SocketServiceFlagsSERVICE_SNAT != 0 {
		s.Forwarding = "snat"
	}
	d.services[id] = s
	return s
}

// slots lists the backends of a run, once each, in the order of their turns.
func (d *dumper) slots(word uint64) []netip.AddrPort {
	out := []netip.AddrPort{}
	seen := map[uint32]bool{}
	for _, id := range d.m.readRun(readRun(word)) {
		if seen[id] || !d.backend(id) {
			continue
		}
		seen[id] = true
		b := fromNetwork(d.backends[id].Key)
		out = append(out, netip.AddrPortFrom(b.Addr, b.Port))
	}
	return out
}

func (d *dumper) backend(id uint32) bool {
	at := d.m.backends.at(id)
	if at == nil {
		return false
	}
	record := *at
	record.Connections = atomic.LoadUint64(&at.Connections)
	d.backends[id] = record
	return true
}

// walkReverse finds the backends that have no slot but may have connections.
func (d *dumper) walkReverse() error {
	reverse, err := d.m.reverse.All()
	for _, id := range reverse {
		d.backend(id)
	}
	return err
}

func (d *dumper) walkSources() error {
	sources, err := d.m.sources.All()
	for key := range sources {
		if s := d.services[key.Service]; s != nil {
			s.Sources = append(s.Sources, sourcePrefix(key))
		}
	}
	return err
}

func (d *dumper) nodes() ([]DumpNode, error) {
	nodes := []DumpNode{}
	for key, text := range d.names {
		if key.Kind != bpf.SocketNameKindNAME_NODE {
			continue
		}
		record, _, err := d.m.nodes.Get(key.Id)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, DumpNode{
			Name: decodeName(text), ID: key.Id, Down: record.Down != 0, Addresses: nodeAddresses(record),
		})
	}
	slices.SortFunc(nodes, func(a, b DumpNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return nodes, nil
}

func (d *dumper) addresses() ([]DumpAddress, error) {
	all, err := d.m.addresses.All()
	out := []DumpAddress{}
	for key, flags := range all {
		out = append(out, DumpAddress{
			Address: fromAddress(key),
			Own:     flags&bpf.SocketAddressFlagsADDRESS_OWN != 0,
			Peer:    flags&bpf.SocketAddressFlagsADDRESS_PEER != 0,
		})
	}
	slices.SortFunc(out, func(a, b DumpAddress) int { return a.Address.Compare(b.Address) })
	return out, err
}

func (d *dumper) listBackends(nodes []DumpNode) []DumpBackend {
	byID := map[uint32]DumpNode{}
	for _, n := range nodes {
		byID[n.ID] = n
	}
	backends := []DumpBackend{}
	for id, record := range d.backends {
		f, n := fromNetwork(record.Key), byID[record.Node]
		state := "draining"
		switch {
		case record.Flags&bpf.SocketBackendFlagsBACKEND_IN_RUN != 0 && n.Down:
			state = "down"
		case record.Flags&bpf.SocketBackendFlagsBACKEND_IN_RUN != 0:
			state = "active"
		case record.Flags&bpf.SocketBackendFlagsBACKEND_IN_LOCAL_RUN != 0:
			state = "local"
		}
		backends = append(backends, DumpBackend{
			ID:          id,
			Service:     decodeName(d.names[serviceName(record.Service)]),
			Address:     netip.AddrPortFrom(f.Addr, f.Port),
			Protocol:    f.Protocol.String(),
			Node:        n.Name,
			State:       state,
			Local:       record.Flags&bpf.SocketBackendFlagsBACKEND_LOCAL != 0,
			Connections: record.Connections,
			Failed:      uint64(record.Failed),
			Weight:      int32(record.Active + record.Flows),
		})
	}
	slices.SortFunc(backends, func(a, b DumpBackend) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.ID, b.ID))
	})
	return backends
}

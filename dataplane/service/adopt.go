package service

import (
	"fmt"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// adopt fills the mirror from the maps that an earlier process left, whatever
// it was doing when it ended. What makes no sense is kept out of the mirror, so
// that the first apply repairs it, or Synced removes it.
func (in *installed) adopt(m *kernelMaps) error {
	names, err := m.names.all()
	if err != nil {
		return err
	}
	if err := in.adoptAddresses(m); err != nil {
		return err
	}
	nodes, err := in.adoptNodes(m, names)
	if err != nil {
		return err
	}
	pools, err := in.adoptFrontends(m, names)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if err := in.adoptPool(m, p, nodes); err != nil {
			return err
		}
	}
	if err := in.adoptReverse(m, pools, nodes); err != nil {
		return err
	}
	for key := range names {
		_, isPool := pools[key.Id]
		if key.Kind == bpf.SocketNameKindNAME_SERVICE && !isPool {
			in.orphans.names = append(in.orphans.names, key)
		}
	}
	return nil
}

func (in *installed) adoptNodes(m *kernelMaps, names map[bpf.SocketNameKey]bpf.SocketName) (map[uint32]*node, error) {
	byID := map[uint32]*node{}
	for key, text := range names {
		if key.Kind != bpf.SocketNameKindNAME_NODE {
			continue
		}
		record, ok, err := m.nodes.get(key.Id)
		if err != nil {
			return nil, err
		}
		name := decodeName(text)
		if _, twice := in.nodes[name]; !ok || twice || !in.nodeIDs.reserve(key.Id) {
			in.orphans.names = append(in.orphans.names, key)
			continue
		}
		n := &node{name: name, id: key.Id, record: record}
		in.nodes[name], byID[n.id] = n, n
	}
	return byID, nil
}

// adoptFrontends makes a pool for every service id that a frontend leads to.
func (in *installed) adoptFrontends(m *kernelMaps, names map[bpf.SocketNameKey]bpf.SocketName) (map[uint32]*pool, error) {
	services, err := m.services.all()
	if err != nil {
		return nil, err
	}
	pools := map[uint32]*pool{}
	for key, index := range services {
		record, ok, err := m.frontends.get(index)
		if err != nil {
			return nil, err
		}
		f := fromNetwork(key)
		if !ok || record.Key != key || !in.frontendIDs.reserve(index) {
			in.orphans.services = append(in.orphans.services, key)
			continue
		}
		p := pools[record.Service]
		if p == nil {
			text, named := names[serviceName(record.Service)]
			name := decodeName(text)
			if !named {
				name = fmt.Sprintf("#%d", record.Service)
			}
			p = &pool{
				key:       poolOf(name, f),
				id:        record.Service,
				named:     named,
				frontends: map[Frontend]installedFrontend{},
				backends:  map[backendKey]*poolBackend{},
			}
			if in.pools[p.key] != nil { // two ids of one name: a new one wins
				p.key.name = fmt.Sprintf("#%d", record.Service)
			}
			in.serviceIDs.reserve(p.id)
			in.addPool(p)
			pools[p.id] = p
		}
		p.frontends[f] = installedFrontend{index: index, record: record}
		in.owners[f] = p
	}
	return pools, nil
}

// adoptPool reads the runs that the pool's frontends lead to. A process that
// died while it moved them to a new run left two.
func (in *installed) adoptPool(m *kernelMaps, p *pool, nodes map[uint32]*node) error {
	primary, _, err := m.primaries.get(p.id)
	if err != nil {
		return err
	}
	if primary.Port != 0 {
		p.primary = fromNetwork(primary)
	}
	var seen []run
	for _, f := range p.frontends {
		r := run{base: f.record.SlotBase, count: f.record.SlotCount}
		if slices.Contains(seen, r) || r.count == 0 {
			continue
		}
		seen = append(seen, r)
		if !in.slots.reserve(r) {
			continue // overlaps another: apply writes a new one
		}
		slots, err := m.readSlots(r)
		if err != nil {
			return err
		}
		for _, id := range slots {
			if err := in.adoptBackend(m, p, id, nodes); err != nil {
				return err
			}
		}
		if p.run.count > 0 {
			p.stale = append(p.stale, p.run)
		}
		p.run, p.slots = r, slots
	}
	return nil
}

func (in *installed) adoptBackend(m *kernelMaps, p *pool, id uint32, nodes map[uint32]*node) error {
	record, ok, err := m.backends.get(id)
	if err != nil || !ok || record.Service != p.id {
		return err
	}
	key := backendKey{endpoint: fromNetwork(record.Key)}
	n := nodes[record.Node]
	if n != nil {
		key.node = n.name
	}
	if p.backends[key] != nil || (record.Node != 0 && n == nil) || !in.backendIDs.reserve(id) {
		return nil
	}
	p.backends[key] = &poolBackend{key: key, pool: p, id: id, record: record}
	if n != nil {
		n.refs++
	}
	return nil
}

// adoptReverse enters the backends that sockets' peers are derived from, first
// those that skep_reverse names, then those that share an endpoint with them.
func (in *installed) adoptReverse(m *kernelMaps, pools map[uint32]*pool, nodes map[uint32]*node) error {
	reverse, err := m.reverse.all()
	if err != nil {
		return err
	}
	for key, id := range reverse {
		record, ok, err := m.backends.get(id)
		if err != nil {
			return err
		}
		p := pools[record.Service]
		if !ok || record.Key != key || p == nil {
			in.orphans.reverse = append(in.orphans.reverse, key)
			continue
		}
		if err := in.adoptBackend(m, p, id, nodes); err != nil {
			return err
		}
		b := p.byID(id)
		if b == nil {
			in.orphans.reverse = append(in.orphans.reverse, key)
			continue
		}
		in.reverse[b.key.endpoint] = append(in.reverse[b.key.endpoint], b)
		b.listed = true
	}
	for _, p := range pools {
		for _, b := range p.backends {
			if !b.listed && len(in.reverse[b.key.endpoint]) > 0 {
				in.reverse[b.key.endpoint] = append(in.reverse[b.key.endpoint], b)
				b.listed = true
			}
		}
	}
	return nil
}

func (p *pool) byID(id uint32) *poolBackend {
	for _, b := range p.backends {
		if b.id == id {
			return b
		}
	}
	return nil
}

// dropOrphans removes what adopt could make no sense of and no apply replaced.
func (in *installed) dropOrphans() error {
	for _, key := range in.orphans.services {
		if in.owners[fromNetwork(key)] == nil {
			if err := in.write.DeleteService(key); err != nil {
				return err
			}
		}
	}
	for _, key := range in.orphans.reverse {
		if len(in.reverse[fromNetwork(key)]) == 0 {
			if err := in.write.DeleteReverse(key); err != nil {
				return err
			}
		}
	}
	for _, key := range in.orphans.names {
		taken := false
		for _, p := range in.pools {
			taken = taken || (key == serviceName(p.id) && p.named)
		}
		for _, n := range in.nodes {
			taken = taken || key == nodeName(n.id)
		}
		if !taken {
			if err := in.write.DeleteName(key); err != nil {
				return err
			}
		}
	}
	in.orphans = orphans{}
	return nil
}

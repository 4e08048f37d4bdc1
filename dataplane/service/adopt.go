package service

import (
	"fmt"

	"github.com/skep-io/skep/bpf"
)

// adopt fills the mirror from the maps of an earlier process, whatever it was
// doing when it ended. Invalid entries are kept out of the mirror, so that the
// first apply repairs them, or Synced removes them.
func (in *installed) adopt(m *kernelMaps) error {
	names, err := m.names.All()
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
	pools := in.adoptFrontends(m, names)
	in.adopted = map[uint32]*poolBackend{}
	defer func() { in.adopted = nil }()
	for _, p := range pools {
		if err := in.adoptRuns(m, p, nodes); err != nil {
			return err
		}
	}
	if err := in.adoptSources(m, pools); err != nil {
		return err
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
		record, ok, err := m.nodes.Get(key.Id)
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
func (in *installed) adoptFrontends(m *kernelMaps, names map[bpf.SocketNameKey]bpf.SocketName) map[uint32]*pool {
	in.retired.cells = m.frontends.adopt()
	pools := map[uint32]*pool{}
	for key, e := range m.frontends.all() {
		record := m.services.at(e.service)
		if record == nil {
			in.orphans.frontends = append(in.orphans.frontends, key)
			continue
		}
		f := fromNetwork(key)
		p := pools[e.service]
		if p == nil {
			p = in.adoptPool(e.service, f, record, names)
			pools[p.id] = p
		}
		p.frontends[f] = e
		in.owners[f] = p
	}
	return pools
}

func (in *installed) adoptPool(id uint32, f Frontend, record *bpf.SocketService, names map[bpf.SocketNameKey]bpf.SocketName) *pool {
	text, named := names[serviceName(id)]
	name := decodeName(text)
	if !named {
		name = fmt.Sprintf("#%d", id)
	}
	p := newPool(poolOf(name, f), id)
	p.named = named
	p.flags, p.affinity = record.Flags, record.AffinitySeconds
	if in.pools[p.key] != nil { // two ids of one name: a new one wins
		p.key.name = fmt.Sprintf("#%d", id)
	}
	in.serviceIDs.reserve(id)
	in.addPool(p)
	return p
}

// adoptRuns reads what a pool's runs lead to.
func (in *installed) adoptRuns(m *kernelMaps, p *pool, nodes map[uint32]*node) error {
	primary, _, err := m.primaries.Get(p.id)
	if err != nil {
		return err
	}
	if primary.Port != 0 {
		p.primary = fromNetwork(primary)
	}
	record := m.services.at(p.id)
	for local, word := range []uint64{everyone: record.Run, thisNode: record.LocalRun} {
		r := installedRun{run: readRun(word)}
		r.ids = m.readRun(r.run)
		r.foreign = !r.run.direct && !in.slots.reserve(r.run)
		if r.foreign {
			r.ids = nil // apply writes another
		}
		for _, id := range r.ids {
			if err := in.adoptBackend(m, p, id, nodes); err != nil {
				return err
			}
		}
		p.runs[local] = r
	}
	return nil
}

func (in *installed) adoptSources(m *kernelMaps, pools map[uint32]*pool) error {
	sources, err := m.sources.All()
	if err != nil {
		return err
	}
	for key := range sources {
		if p := pools[key.Service]; p != nil {
			p.sources[key] = struct{}{}
		} else {
			in.orphans.sources = append(in.orphans.sources, key)
		}
	}
	return nil
}

func (in *installed) adoptBackend(m *kernelMaps, p *pool, id uint32, nodes map[uint32]*node) error {
	at := m.backends.at(id)
	if at == nil || at.Service != p.id {
		return nil
	}
	record := *at
	record.Active, record.Connections, record.Flows, record.Failed = 0, 0, 0, 0
	key := backendKey{endpoint: fromNetwork(record.Key)}
	n := nodes[record.Node]
	if n != nil {
		key.node = n.name
	}
	if p.backends[key] != nil || (record.Node != 0 && n == nil) || !in.backendIDs.reserve(id) {
		return nil
	}
	p.backends[key] = &poolBackend{key: key, pool: p, id: id, record: record}
	in.adopted[id] = p.backends[key]
	if n != nil {
		n.refs++
	}
	return nil
}

// adoptReverse enters the backends that sockets' peers are derived from, first
// those that skep_reverse names, then those that share an endpoint with them.
func (in *installed) adoptReverse(m *kernelMaps, pools map[uint32]*pool, nodes map[uint32]*node) error {
	byID := in.adopted
	reverse, err := m.reverse.All()
	if err != nil {
		return err
	}
	for key, id := range reverse {
		record := m.backends.at(id)
		if record == nil || record.Key != key || pools[record.Service] == nil {
			in.orphans.reverse = append(in.orphans.reverse, key)
			continue
		}
		p := pools[record.Service]
		if err := in.adoptBackend(m, p, id, nodes); err != nil {
			return err
		}
		b := byID[id]
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

// dropOrphans removes the entries that adopt found invalid and no apply replaced.
func (in *installed) dropOrphans() error {
	for _, key := range in.orphans.frontends {
		if in.owners[fromNetwork(key)] == nil {
			if err := in.deleteFrontend(key); err != nil {
				return err
			}
		}
	}
	for _, key := range in.orphans.sources {
		if !in.hasSource(key) {
			if err := in.write.DeleteSource(key); err != nil {
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

// hasSource: a pool made since then may have the id of one that was removed.
func (in *installed) hasSource(key bpf.SocketSourceKey) bool {
	for _, p := range in.pools {
		if _, ok := p.sources[key]; ok && p.id == key.Service {
			return true
		}
	}
	return false
}

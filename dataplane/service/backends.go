package service

import (
	"errors"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// fillBackends writes the records of all wanted backends, with the flags that
// they have and those that they get, and returns the members of each run, in
// the order of their addresses. Those for which there was no room are left out;
// the error then is errFull, and the rest is written.
func (in *installed) fillBackends(d *desiredService, p *pool, want *desiredPool) (runs [2][]*poolBackend, err error) {
	var full error
	for _, w := range want.backends {
		b, err := in.backend(d, p, w, len(want.backends))
		if errors.Is(err, errFull) {
			full = err
			continue
		}
		if err != nil {
			return runs, err
		}
		if err := in.list(b); err != nil {
			return runs, err
		}
		if err := in.putFlags(b, b.record.Flags|w.flags()|in.derived(b)); err != nil {
			return runs, err
		}
		if w.inRun {
			runs[everyone] = append(runs[everyone], b)
		}
		if w.inLocal {
			runs[thisNode] = append(runs[thisNode], b)
		}
	}
	return runs, full
}

// settleFlags clears the flags that backends no longer have, after the runs
// were replaced: from then on a client's affinity does not lead there either.
func (in *installed) settleFlags(d *desiredService, p *pool, want *desiredPool) error {
	for _, w := range want.backends {
		b := p.backends[w.installedKey()]
		if b == nil {
			continue
		}
		old := b.record.Flags
		if err := in.putFlags(b, w.flags()|in.derived(b)); err != nil {
			return err
		}
		const inRuns = bpf.SocketBackendFlagsBACKEND_IN_RUN | bpf.SocketBackendFlagsBACKEND_IN_LOCAL_RUN
		left := old&inRuns != 0 && b.record.Flags&inRuns == 0
		if left && (w.withdrawn || p.key.protocol == UDP) {
			in.depart(d, b, !w.withdrawn)
		}
	}
	return nil
}

func (in *installed) depart(d *desiredService, b *poolBackend, draining bool) {
	endpoint := b.key.endpoint
	in.notify(Departure{
		Service: b.pool.key.name, Addr: endpoint.Addr, Port: endpoint.Port, Protocol: endpoint.Protocol,
		Draining:  draining,
		Withdrawn: d.withdrawn(endpoint.Addr),
		Last:      len(in.reverse[endpoint]) == 0,
	})
}

// backendID places few backends where programs expect those of the service, and
// many with consecutive ids in the other half of the array, so that their run
// needs no slots.
func (in *installed) backendID(p *pool, among int) (uint32, error) {
	if among <= int(homeBackends) {
		for id := p.id * homeBackends; id < (p.id+1)*homeBackends; id++ {
			if in.backendIDs.reserve(id) {
				return id, nil
			}
		}
	}
	return in.backendIDs.allocate(in.limits.Backends / 2)
}

// installedKey is the key under which a pool has a backend.
func (w desiredBackend) installedKey() backendKey {
	return backendKey{endpoint: w.key.endpoint, node: storedName(w.key.node)}
}

// backend returns the pool's backend of that key, made if there is none.
func (in *installed) backend(d *desiredService, p *pool, w desiredBackend, among int) (*poolBackend, error) {
	key := w.installedKey()
	if b := p.backends[key]; b != nil {
		return b, nil
	}
	nodeID, err := in.nodeID(key.node, d.nodes[key.node])
	if err != nil {
		return nil, err
	}
	id, err := in.backendID(p, among)
	if err != nil {
		return nil, err
	}
	if in.serial++; in.serial == 0 {
		in.serial = 1
	}
	b := &poolBackend{key: key, pool: p, id: id, record: bpf.SocketBackend{
		Key:     toNetwork(key.endpoint),
		Service: p.id,
		Node:    nodeID,
		Flags:   w.flags(),
		Serial:  in.serial,
	}}
	if err := in.write.PutBackend(id, b.record); err != nil {
		in.backendIDs.release(id)
		return nil, err
	}
	p.backends[key] = b
	if n := in.nodes[key.node]; n != nil {
		n.refs++
	}
	return b, nil
}

func (in *installed) putFlags(b *poolBackend, flags bpf.SocketBackendFlags) error {
	if b.record.Flags == flags {
		return nil
	}
	if err := in.write.PutBackendFlags(b.id, flags); err != nil {
		return err
	}
	b.record.Flags = flags
	return nil
}

// derived is the flag of a backend that has sockets, perhaps, for which what they
// asked for is not stored.
func (in *installed) derived(b *poolBackend) bpf.SocketBackendFlags {
	return b.record.Flags & bpf.SocketBackendFlagsBACKEND_DERIVED
}

// list enters a backend among those that have its endpoint; the first of them
// is the one that skep_reverse names.
func (in *installed) list(b *poolBackend) error {
	if b.listed {
		return nil
	}
	if len(in.reverse[b.key.endpoint]) == 0 {
		if err := in.write.PutReverse(b.record.Key, b.id); err != nil {
			return err
		}
		if err := in.putFlags(b, b.record.Flags|bpf.SocketBackendFlagsBACKEND_DERIVED); err != nil {
			return err
		}
	}
	in.reverse[b.key.endpoint] = append(in.reverse[b.key.endpoint], b)
	b.listed = true
	return nil
}

// unlist removes a backend again and passes its place on, but not the derived
// flag: sockets of which nothing is stored asked for the service that is removed,
// and getpeername would return the next one's address.
func (in *installed) unlist(b *poolBackend) error {
	if !b.listed {
		return nil
	}
	if err := in.putFlags(b, b.record.Flags&^bpf.SocketBackendFlagsBACKEND_DERIVED); err != nil {
		return err
	}
	all := in.reverse[b.key.endpoint]
	at := slices.Index(all, b)
	rest := slices.Delete(slices.Clone(all), at, at+1)
	if len(rest) == 0 {
		if err := in.write.DeleteReverse(b.record.Key); err != nil {
			return err
		}
		delete(in.reverse, b.key.endpoint)
	} else {
		if at == 0 {
			if err := in.write.PutReverse(b.record.Key, rest[0].id); err != nil {
				return err
			}
		}
		in.reverse[b.key.endpoint] = rest
	}
	b.listed = false
	return nil
}

// dropBackends removes the backends that are not wanted; no run leads to them.
func (in *installed) dropBackends(d *desiredService, p *pool, want *desiredPool) error {
	keep := make(map[backendKey]struct{}, len(want.backends))
	for _, w := range want.backends {
		keep[w.installedKey()] = struct{}{}
	}
	for key, b := range p.backends {
		if _, ok := keep[key]; ok {
			continue
		}
		// A client's affinity must not select it again.
		if err := in.putFlags(b, 0); err != nil {
			return err
		}
		if err := in.unlist(b); err != nil {
			return err
		}
		delete(p.backends, key)
		in.retired.backends = append(in.retired.backends, b.id)
		in.depart(d, b, false)
		if err := in.dropNode(key.node); err != nil {
			return err
		}
	}
	return nil
}

package service

import (
	"slices"

	"github.com/skep-io/skep/bpf"
)

// fillBackends writes the records of all wanted backends and returns the slots
// that lead to the selectable ones, in the order of their addresses.
func (in *installed) fillBackends(d *desiredService, p *pool, want *desiredPool) ([]uint32, error) {
	slots := []uint32{}
	for _, w := range want.backends {
		b, err := in.backend(d, p, w.key)
		if err != nil {
			return nil, err
		}
		if err := in.list(b); err != nil {
			return nil, err
		}
		flags := b.record.Flags &^ bpf.SocketBackendFlagsBACKEND_SELECTABLE
		if w.selectable {
			flags |= bpf.SocketBackendFlagsBACKEND_SELECTABLE
			slots = append(slots, b.id)
		}
		if in.shared(b.key.endpoint, p, want.frontends) {
			flags |= bpf.SocketBackendFlagsBACKEND_SHARED
		} else {
			flags &^= bpf.SocketBackendFlagsBACKEND_SHARED
		}
		if err := in.putFlags(b, flags); err != nil {
			return nil, err
		}
		if err := in.markShared(b, flags); err != nil {
			return nil, err
		}
	}
	return slots, nil
}

// backend returns the pool's backend of that key, made if there is none.
func (in *installed) backend(d *desiredService, p *pool, key backendKey) (*poolBackend, error) {
	key.node = storedName(key.node)
	if b := p.backends[key]; b != nil {
		return b, nil
	}
	nodeID, err := in.nodeID(key.node, d.nodes[key.node])
	if err != nil {
		return nil, err
	}
	id, err := in.backendIDs.allocate()
	if err != nil {
		return nil, err
	}
	in.serial++
	b := &poolBackend{key: key, pool: p, id: id, record: bpf.SocketBackend{
		Key:     toNetwork(key.endpoint),
		Service: p.id,
		Node:    nodeID,
		Serial:  in.serial,
	}}
	err = in.write.ResetConnections(id)
	if err == nil {
		err = in.write.PutBackend(id, b.record)
	}
	if err != nil {
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
	record := b.record
	record.Flags = flags
	if err := in.write.PutBackend(b.id, record); err != nil {
		return err
	}
	b.record = record
	return nil
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
	}
	in.reverse[b.key.endpoint] = append(in.reverse[b.key.endpoint], b)
	b.listed = true
	return nil
}

// unlist takes a backend out again and passes its place on.
func (in *installed) unlist(b *poolBackend) error {
	if !b.listed {
		return nil
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

// shared tells whether a socket may have reached an endpoint through more than
// one frontend, the pool's future ones and the others' present ones.
func (in *installed) shared(endpoint Frontend, p *pool, frontends []Frontend) bool {
	count := clusterScoped(frontends)
	for _, b := range in.reverse[endpoint] {
		if b.pool != p {
			// A pool that is being filled has no frontend yet, but will.
			count += max(1, b.pool.clusterFrontends())
		}
	}
	return count > 1
}

func clusterScoped(frontends []Frontend) int {
	count := 0
	for _, f := range frontends {
		if f.Scope == ScopeCluster {
			count++
		}
	}
	return count
}

func (p *pool) clusterFrontends() int {
	count := 0
	for f := range p.frontends {
		if f.Scope == ScopeCluster {
			count++
		}
	}
	return count
}

// markShared gives the other backends of the same endpoint the same mark,
// before the first connection through b.
func (in *installed) markShared(b *poolBackend, flags bpf.SocketBackendFlags) error {
	const mark = bpf.SocketBackendFlagsBACKEND_SHARED
	for _, other := range in.reverse[b.key.endpoint] {
		if other != b && flags&mark != 0 {
			if err := in.putFlags(other, other.record.Flags|mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropBackends removes the backends that are not wanted; no slot names them.
func (in *installed) dropBackends(p *pool, want *desiredPool) error {
	keep := make(map[backendKey]struct{}, len(want.backends))
	for _, w := range want.backends {
		key := w.key
		key.node = storedName(key.node)
		keep[key] = struct{}{}
	}
	for key, b := range p.backends {
		if _, ok := keep[key]; ok {
			continue
		}
		// A client's affinity must not lead back to it.
		if err := in.putFlags(b, b.record.Flags&^bpf.SocketBackendFlagsBACKEND_SELECTABLE); err != nil {
			return err
		}
		if err := in.unlist(b); err != nil {
			return err
		}
		if err := in.unmarkShared(b.key.endpoint); err != nil {
			return err
		}
		delete(p.backends, key)
		in.retired.backends = append(in.retired.backends, b.id)
		if err := in.dropNode(key.node); err != nil {
			return err
		}
	}
	return nil
}

// unmarkShared clears the mark of an endpoint's last backend, if the pool that
// it belongs to has one frontend.
func (in *installed) unmarkShared(endpoint Frontend) error {
	all := in.reverse[endpoint]
	if len(all) != 1 || all[0].pool.clusterFrontends() > 1 {
		return nil
	}
	return in.putFlags(all[0], all[0].record.Flags&^bpf.SocketBackendFlagsBACKEND_SHARED)
}

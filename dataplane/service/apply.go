package service

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// desiredService is one service with all that applying it needs, read under one
// lock.
type desiredService struct {
	name      string
	pools     map[poolKey]*desiredPool
	nodes     map[string]bpf.SocketNode // of its backends
	claimed   func(Frontend) bool       // wanted by any service now
	withdrawn func(netip.Addr) bool
}

// apply makes the maps hold one service. It returns the names of services that
// have to be applied again because it got a frontend of theirs. After an error
// nothing is inconsistent to programs, and applying again finishes the work. If
// the error is errFull, all that there was room for is installed.
func (in *installed) apply(d *desiredService) (again []string, err error) {
	var full error
	for _, key := range sortedPools(d.pools) {
		taken, err := in.fill(d, d.pools[key])
		again = append(again, taken...)
		if errors.Is(err, errFull) {
			full = err
			continue
		}
		if err != nil {
			return again, err
		}
	}
	for key, p := range in.byName[d.name] {
		if d.pools[key] != nil {
			continue
		}
		if err := in.empty(d, p); err != nil {
			return again, err
		}
	}
	return again, full
}

func sortedPools(pools map[poolKey]*desiredPool) []poolKey {
	return slices.SortedFunc(maps.Keys(pools), func(a, b poolKey) int {
		if a.ip6 != b.ip6 {
			if a.ip6 {
				return 1
			}
			return -1
		}
		return int(a.protocol) - int(b.protocol)
	})
}

// fill makes the maps hold one pool. The order keeps every reader right if any
// line fails or the process dies there: records before the slots that name
// them, slots before the run that leads to those, frontends last; then, in
// reverse order, it removes what nothing refers to any more.
func (in *installed) fill(d *desiredService, want *desiredPool) (again []string, err error) {
	p := in.pools[want.key]
	if p == nil {
		if p, err = in.makePool(want.key, want.frontends); err != nil {
			return nil, err
		}
	}
	if err := in.putName(p); err != nil {
		return nil, err
	}
	runs, full := in.fillBackends(d, p, want)
	if full != nil && !errors.Is(full, errFull) {
		return nil, full
	}
	selection := Selection(want.flags & bpf.SocketServiceFlagsSELECT_MASK)
	for local, members := range runs {
		if err := in.replaceRun(p, local, places(selection, members)); err != nil {
			return nil, err
		}
	}
	if err := in.putPolicy(p, want); err != nil {
		return nil, err
	}
	if err := in.settleFlags(d, p, want); err != nil {
		return nil, err
	}
	if err := in.putSources(p, want.sources); err != nil {
		return nil, err
	}
	again, err = in.putFrontends(p, want.frontends)
	if errors.Is(err, errFull) {
		full = err
	} else if err != nil {
		return again, err
	}
	if err := in.dropFrontends(p, want.frontends, d.claimed); err != nil {
		return again, err
	}
	if err := in.dropSources(p, want.sources); err != nil {
		return again, err
	}
	if err := in.dropBackends(d, p, want); err != nil {
		return again, err
	}
	return again, full
}

// empty removes a pool that is no longer wanted. It keeps a frontend that
// another service is about to get, and with it all that the frontend leads to,
// so that there is no moment without a backend.
func (in *installed) empty(d *desiredService, p *pool) error {
	if err := in.dropFrontends(p, nil, d.claimed); err != nil {
		return err
	}
	if len(p.frontends) > 0 {
		return nil
	}
	if err := in.dropBackends(d, p, &desiredPool{}); err != nil {
		return err
	}
	if err := in.dropSources(p, nil); err != nil {
		return err
	}
	if p.named {
		if err := in.write.DeleteName(serviceName(p.id)); err != nil {
			return err
		}
	}
	for _, r := range p.runs {
		in.retireRun(r)
	}
	in.retired.services = append(in.retired.services, p.id)
	in.dropPool(p)
	return nil
}

func (in *installed) putName(p *pool) error {
	if p.named {
		return nil
	}
	if err := in.write.PutName(serviceName(p.id), p.key.name); err != nil {
		return err
	}
	p.named = true
	return nil
}

func (in *installed) putPolicy(p *pool, want *desiredPool) error {
	if p.flags == want.flags && p.affinity == want.affinitySeconds {
		return nil
	}
	if err := in.write.PutPolicy(p.id, want.flags, want.affinitySeconds); err != nil {
		return err
	}
	p.flags, p.affinity = want.flags, want.affinitySeconds
	return nil
}

// places returns what a run should lead to: every member in turn, or a Maglev table.
func places(selection Selection, members []*poolBackend) []uint32 {
	ids := make([]uint32, 0, len(members))
	for _, b := range members {
		ids = append(ids, b.id)
	}
	if selection != Maglev || len(members) < 2 {
		return ids
	}
	endpoints := make([]Frontend, 0, len(members))
	for _, b := range members {
		endpoints = append(endpoints, b.key.endpoint)
	}
	table := maglevTable(maglevSize(len(members)), endpoints)
	out := make([]uint32, len(table))
	for i, member := range table {
		out[i] = ids[member]
	}
	return out
}

// replaceRun leads every frontend of a pool to other backends, in one store.
func (in *installed) replaceRun(p *pool, local int, ids []uint32) error {
	old := p.runs[local]
	if slices.Equal(ids, old.ids) && old.run.count == uint32(len(ids)) {
		return nil
	}
	fresh, direct := directRun(ids)
	if !direct {
		var err error
		if fresh, err = in.slots.allocate(uint32(len(ids))); err != nil {
			return err
		}
		if err := in.write.PutSlots(fresh.base, ids); err != nil {
			in.slots.release(fresh)
			return err
		}
	}
	if err := in.write.PutRun(p.id, local == thisNode, fresh.word()); err != nil {
		if !direct {
			in.slots.release(fresh)
		}
		return err
	}
	p.runs[local] = installedRun{run: fresh, ids: ids}
	in.retireRun(old)
	return nil
}

func (in *installed) retireRun(r installedRun) {
	if r.run.count > 0 && !r.run.direct && !r.foreign {
		in.retired.runs = append(in.retired.runs, r.run)
	}
}

package service

import (
	"maps"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// desiredService is one service with the answers that applying it needs, taken
// under one lock.
type desiredService struct {
	name    string
	pools   map[poolKey]*desiredPool
	nodes   map[string]bpf.SocketNode // of its backends
	claimed func(Frontend) bool       // wanted by any service now
}

// apply makes the maps hold one service. It returns the names of services that
// have to be applied again because it took a frontend from them. After an error
// nothing is inconsistent to programs, and applying again finishes the work.
func (in *installed) apply(d *desiredService) (again []string, err error) {
	for _, key := range sortedPools(d.pools) {
		taken, err := in.fill(d, d.pools[key])
		again = append(again, taken...)
		if err != nil {
			return again, err
		}
	}
	for key, p := range in.byName[d.name] {
		if d.pools[key] != nil {
			continue
		}
		if err := in.empty(p, d.claimed); err != nil {
			return again, err
		}
	}
	return again, nil
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
// them, slots before the frontends that name those, the service's value last;
// then, in reverse, what nothing leads to any more.
func (in *installed) fill(d *desiredService, want *desiredPool) (again []string, err error) {
	p := in.pools[want.key]
	if p == nil {
		if p, err = in.newPool(want.key); err != nil {
			return nil, err
		}
	}
	if !p.named {
		if err := in.write.PutName(serviceName(p.id), p.key.name); err != nil {
			return nil, err
		}
		p.named = true
	}
	if primary := primaryOf(want.frontends); primary != p.primary {
		if err := in.putPrimary(p, primary); err != nil {
			return nil, err
		}
	}
	slots, err := in.fillBackends(d, p, want)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(slots, p.slots) {
		if err := in.replaceSlots(p, slots); err != nil {
			return nil, err
		}
	}
	for _, f := range want.frontends {
		taken, err := in.putFrontend(p, f, want.affinitySeconds)
		if taken != "" {
			again = append(again, taken)
		}
		if err != nil {
			return again, err
		}
	}
	if err := in.dropFrontends(p, want.frontends, d.claimed); err != nil {
		return again, err
	}
	if len(p.frontends) == len(want.frontends) {
		in.retired.runs = append(in.retired.runs, p.stale...)
		p.stale = nil
	}
	return again, in.dropBackends(p, want)
}

// empty removes a pool that is no longer wanted. It keeps a frontend that
// another service is about to take, and with it all that the frontend leads to,
// so that no connection meets a gap.
func (in *installed) empty(p *pool, claimed func(Frontend) bool) error {
	if err := in.dropFrontends(p, nil, claimed); err != nil {
		return err
	}
	if len(p.frontends) > 0 {
		return nil
	}
	if err := in.dropBackends(p, &desiredPool{}); err != nil {
		return err
	}
	if p.named {
		if err := in.write.DeleteName(serviceName(p.id)); err != nil {
			return err
		}
	}
	in.retired.runs = append(append(in.retired.runs, p.run), p.stale...)
	in.retired.services = append(in.retired.services, p.id)
	in.dropPool(p)
	return nil
}

// primaryOf picks the frontend that stands for a pool when a socket's peer is
// derived: the first that sockets can ask for.
func primaryOf(frontends []Frontend) Frontend {
	for _, f := range frontends {
		if f.Scope == ScopeCluster {
			return f
		}
	}
	return Frontend{}
}

func (in *installed) putPrimary(p *pool, primary Frontend) error {
	var key bpf.SocketEndpoint
	if primary.Addr.IsValid() {
		key = toNetwork(primary)
	}
	if err := in.write.PutPrimary(p.id, key); err != nil {
		return err
	}
	p.primary = primary
	return nil
}

// replaceSlots writes a new run. The old one stays until every frontend leads
// to the new one.
func (in *installed) replaceSlots(p *pool, slots []uint32) error {
	fresh, err := in.slots.allocate(uint32(len(slots)))
	if err != nil {
		return err
	}
	if err := in.write.PutSlots(fresh.base, slots); err != nil {
		in.slots.release(fresh)
		return err
	}
	if p.run.count > 0 {
		p.stale = append(p.stale, p.run)
	}
	p.run, p.slots = fresh, slots
	return nil
}

// putFrontend leads a frontend to the pool's slots, in one write, and returns
// the name of the service that it was taken from, if any.
func (in *installed) putFrontend(p *pool, f Frontend, affinitySeconds uint32) (taken string, err error) {
	record := bpf.SocketFrontendRecord{
		Key:             toNetwork(f),
		Service:         p.id,
		SlotBase:        p.run.base,
		SlotCount:       p.run.count,
		AffinitySeconds: affinitySeconds,
	}
	owner := in.owners[f]
	if owner == p && p.frontends[f].record == record {
		return "", nil
	}
	index, err := in.frontendIDs.allocate()
	if err != nil {
		return "", err
	}
	err = in.write.PutFrontend(index, record)
	if err == nil {
		err = in.write.PutService(record.Key, index)
	}
	if err != nil {
		in.frontendIDs.release(index)
		return "", err
	}
	if owner != nil {
		in.retired.frontends = append(in.retired.frontends, owner.frontends[f].index)
		delete(owner.frontends, f)
	}
	p.frontends[f] = installedFrontend{index: index, record: record}
	in.owners[f] = p
	if owner != nil && owner != p {
		return owner.key.name, nil
	}
	return "", nil
}

func (in *installed) dropFrontends(p *pool, want []Frontend, claimed func(Frontend) bool) error {
	for f, installed := range p.frontends {
		if slices.Contains(want, f) || claimed(f) {
			continue
		}
		if err := in.write.DeleteService(installed.record.Key); err != nil {
			return err
		}
		delete(p.frontends, f)
		delete(in.owners, f)
		in.retired.frontends = append(in.retired.frontends, installed.index)
	}
	return nil
}

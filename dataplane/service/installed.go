package service

import (
	"crypto/rand"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// Limits are the sizes of the maps; zero means the default. Changing one makes
// new maps, which replace the old ones when they are filled.
type Limits struct {
	Frontends uint32
	Services  uint32 // one per service, address family and protocol
	Backends  uint32 // a backend of two services counts twice
	Slots     uint32 // two runs a service at most, each rounded up to a power of two
	Nodes     uint32
}

// installed mirrors what the maps hold. Only the reconciler's goroutine touches
// it. It is changed after the write that it mirrors, so that after a failed
// write it still says what is in the kernel.
type installed struct {
	write  writer
	limits Limits
	// home is the service id that programs expect behind a primary frontend.
	home func(bpf.SocketEndpoint) uint32

	pools     map[poolKey]*pool
	byName    map[string]map[poolKey]*pool
	owners    map[Frontend]*pool          // whose record skep_services names
	reverse   map[Frontend][]*poolBackend // first: whose id skep_reverse holds
	nodes     map[string]*node
	orphans   orphans
	adopted   map[uint32]*poolBackend // by id, while adopting
	addresses map[netip.Addr]bpf.SocketAddressFlags

	serviceIDs, backendIDs, nodeIDs *ids
	slots                           *runs
	serial                          uint32
	retired                         *retired
	notify                          func(Departure)
}

// orphans are adopted entries that are invalid; they are removed after Synced.
type orphans struct {
	frontends []bpf.SocketEndpoint
	reverse   []bpf.SocketEndpoint
	sources   []bpf.SocketSourceKey
	names     []bpf.SocketNameKey
}

type pool struct {
	key       poolKey
	id        uint32
	named     bool
	primary   Frontend
	frontends map[Frontend]entry // by identity
	backends  map[backendKey]*poolBackend
	sources   map[bpf.SocketSourceKey]struct{}
	runs      [2]installedRun // of all backends and of this node's
	flags     bpf.SocketServiceFlags
	affinity  uint32 // seconds
}

// The two runs of a pool.
const (
	everyone = iota
	thisNode
)

type installedRun struct {
	run run
	ids []uint32 // the backends it leads to
	// foreign: adopted, but its slots belong to another run as well. They are not
	// freed.
	foreign bool
}

type poolBackend struct {
	key    backendKey
	pool   *pool
	id     uint32
	record bpf.SocketBackend // but for the counts
	listed bool              // in installed.reverse
}

type node struct {
	name   string
	id     uint32
	record bpf.SocketNode
	refs   int
}

func newInstalled(w writer, limits Limits, home func(bpf.SocketEndpoint) uint32) *installed {
	var seed [4]byte
	rand.Read(seed[:]) // never fails; serials only have to differ between uses
	in := &installed{
		write:      w,
		limits:     limits,
		home:       home,
		pools:      map[poolKey]*pool{},
		byName:     map[string]map[poolKey]*pool{},
		owners:     map[Frontend]*pool{},
		reverse:    map[Frontend][]*poolBackend{},
		nodes:      map[string]*node{},
		addresses:  map[netip.Addr]bpf.SocketAddressFlags{},
		serviceIDs: newIDs("services", limits.Services),
		backendIDs: newIDs("backends", limits.Backends),
		nodeIDs:    newIDs("nodes", limits.Nodes),
		slots:      newRuns(limits.Slots),
		serial:     binary.NativeEndian.Uint32(seed[:]),
		retired:    &retired{},
		notify:     func(Departure) {},
	}
	in.nodeIDs.reserve(0) // "no node"
	return in
}

func (in *installed) addPool(p *pool) {
	in.pools[p.key] = p
	if in.byName[p.key.name] == nil {
		in.byName[p.key.name] = map[poolKey]*pool{}
	}
	in.byName[p.key.name][p.key] = p
}

func (in *installed) dropPool(p *pool) {
	delete(in.pools, p.key)
	delete(in.byName[p.key.name], p.key)
	if len(in.byName[p.key.name]) == 0 {
		delete(in.byName, p.key.name)
	}
}

func newPool(key poolKey, id uint32) *pool {
	return &pool{
		key:       key,
		id:        id,
		frontends: map[Frontend]entry{},
		backends:  map[backendKey]*poolBackend{},
		sources:   map[bpf.SocketSourceKey]struct{}{},
	}
}

// makePool makes an empty pool whose record is written.
func (in *installed) makePool(key poolKey, frontends []Frontend) (*pool, error) {
	primary := primaryOf(frontends)
	if !primary.Addr.IsValid() {
		primary = frontends[0]
	}
	id, err := in.serviceIDs.allocate(in.home(toNetwork(primary)))
	if err != nil {
		return nil, err
	}
	p := newPool(key, id)
	if err := in.write.ResetService(id, bpf.SocketService{}); err != nil {
		in.serviceIDs.release(id)
		return nil, err
	}
	in.addPool(p)
	return p, nil
}

// nodeID returns the id of a node's record, written with its down bit before
// any backend refers to it.
func (in *installed) nodeID(name string, record bpf.SocketNode) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	if n := in.nodes[name]; n != nil {
		return n.id, nil
	}
	id, err := in.nodeIDs.allocate(0)
	if err != nil {
		return 0, err
	}
	err = in.write.PutNode(id, record)
	if err == nil {
		err = in.write.PutName(nodeName(id), name)
	}
	if err != nil {
		in.nodeIDs.release(id)
		return 0, err
	}
	in.nodes[name] = &node{name: name, id: id, record: record}
	return id, nil
}

func (in *installed) dropNode(name string) error {
	n := in.nodes[name]
	if n == nil {
		return nil
	}
	if n.refs--; n.refs > 0 {
		return nil
	}
	delete(in.nodes, name)
	in.retired.nodes = append(in.retired.nodes, n.id)
	return in.write.DeleteName(nodeName(n.id))
}

// putNode drops or restores all backends of a node, or moves the node to other
// addresses, in one write.
func (in *installed) putNode(name string, record bpf.SocketNode) error {
	n := in.nodes[storedName(name)]
	if n == nil || n.record == record {
		return nil
	}
	if err := in.write.PutNode(n.id, record); err != nil {
		return err
	}
	n.record = record
	return nil
}

func nodeName(id uint32) bpf.SocketNameKey {
	return bpf.SocketNameKey{Kind: bpf.SocketNameKindNAME_NODE, Id: id}
}

func serviceName(id uint32) bpf.SocketNameKey {
	return bpf.SocketNameKey{Kind: bpf.SocketNameKindNAME_SERVICE, Id: id}
}

// release makes ids free that no program can be reading any more.
func (in *installed) release(r *retired) {
	for _, id := range r.backends {
		in.backendIDs.release(id)
	}
	for _, id := range r.services {
		in.serviceIDs.release(id)
	}
	for _, id := range r.nodes {
		in.nodeIDs.release(id)
	}
	for _, freed := range r.runs {
		in.slots.release(freed)
	}
	for _, cell := range r.cells {
		in.write.ReuseFrontend(cell)
	}
}

// names lists the services that have anything installed, in order.
func (in *installed) names() []string { return slices.Sorted(maps.Keys(in.byName)) }

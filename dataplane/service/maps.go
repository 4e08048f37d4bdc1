package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// kernelMaps gives every pinned map its types.
type kernelMaps struct {
	byName    map[string]*ebpf.Map
	frontends frontendTable
	services  memory[bpf.SocketService]
	slots     memory[bpf.SocketSlotLine]
	backends  memory[bpf.SocketBackend]
	nodes     pinned.Table[uint32, bpf.SocketNode]
	primaries pinned.Table[uint32, bpf.SocketEndpoint]
	reverse   pinned.Table[bpf.SocketEndpoint, uint32]
	addresses pinned.Table[bpf.SocketAddress, bpf.SocketAddressFlags]
	sources   pinned.Table[bpf.SocketSourceKey, uint32]
	names     pinned.Table[bpf.SocketNameKey, bpf.SocketName]
	config    pinned.Table[uint32, bpf.SocketConfig]
	layout    pinned.Table[uint32, bpf.SocketLayout]

	mu     sync.RWMutex // held while shared memory is read beside the reconciler
	closed bool
}

// newMaps takes over the maps of a collection.
func newMaps(byName map[string]*ebpf.Map, write bool) (_ *kernelMaps, err error) {
	m := &kernelMaps{byName: byName}
	m.nodes.Map = byName[bpf.SocketMapSkepNodes]
	m.primaries.Map = byName[bpf.SocketMapSkepPrimaries]
	m.reverse.Map = byName[bpf.SocketMapSkepReverse]
	m.addresses.Map = byName[bpf.SocketMapSkepAddresses]
	m.sources.Map = byName[bpf.SocketMapSkepSources]
	m.names.Map = byName[bpf.SocketMapSkepNames]
	m.config.Map = byName[bpf.SocketMapSkepConfig]
	m.layout.Map = byName[bpf.SocketMapSkepLayout]
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.frontends, err = newFrontendTable(byName[bpf.SocketMapSkepFrontends], write); err != nil {
		return nil, err
	}
	if m.services, err = shareMemory[bpf.SocketService](byName[bpf.SocketMapSkepServices], write); err != nil {
		return nil, err
	}
	if m.slots, err = shareMemory[bpf.SocketSlotLine](byName[bpf.SocketMapSkepSlots], write); err != nil {
		return nil, err
	}
	if m.backends, err = shareMemory[bpf.SocketBackend](byName[bpf.SocketMapSkepBackends], write); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *kernelMaps) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	failed := []error{m.frontends.close(), m.services.close(), m.slots.close(), m.backends.close()}
	for _, one := range m.byName {
		failed = append(failed, one.Close())
	}
	return errors.Join(failed...)
}

// slotsEach is how many slots a line has.
const slotsEach = uint32(len(bpf.SocketSlotLine{}.Backend))

// readRun returns the backend ids of one run, nil if it is out of range.
func (m *kernelMaps) readRun(r run) []uint32 {
	limit := uint64(len(m.slots.values)) * uint64(slotsEach)
	if r.direct {
		limit = uint64(len(m.backends.values))
	}
	if uint64(r.base)+uint64(r.count) > limit {
		return nil
	}
	ids := make([]uint32, r.count)
	for i := range ids {
		ids[i] = r.base + uint32(i)
		if !r.direct {
			ids[i] = atomic.LoadUint32(&m.slots.values[ids[i]/slotsEach].Backend[ids[i]%slotsEach])
		}
	}
	return ids
}

// writer has every call by which the reconciler changes the kernel's tables. Each
// is atomic to programs but PutSlots, ResetService and PutBackend, which write
// what nothing refers to yet.
type writer interface {
	PutFrontend(key bpf.SocketEndpoint, e entry) error
	DeleteFrontend(key bpf.SocketEndpoint) (cell uint32, was bool, err error) // to be reused after a grace period
	ReuseFrontend(cell uint32)
	ResetService(id uint32, record bpf.SocketService) error
	PutPolicy(service uint32, flags bpf.SocketServiceFlags, affinitySeconds uint32) error
	PutRun(service uint32, local bool, word uint64) error
	PutSlots(base uint32, backends []uint32) error
	PutBackend(id uint32, record bpf.SocketBackend) error
	PutBackendFlags(id uint32, flags bpf.SocketBackendFlags) error
	PutReverse(key bpf.SocketEndpoint, backend uint32) error
	DeleteReverse(key bpf.SocketEndpoint) error
	PutPrimary(service uint32, key bpf.SocketEndpoint) error
	PutSource(key bpf.SocketSourceKey) error
	DeleteSource(key bpf.SocketSourceKey) error
	PutNode(id uint32, record bpf.SocketNode) error
	PutAddress(key bpf.SocketAddress, flags bpf.SocketAddressFlags) error
	DeleteAddress(key bpf.SocketAddress) error
	PutName(key bpf.SocketNameKey, name string) error
	DeleteName(key bpf.SocketNameKey) error
}

var _ writer = (*kernelMaps)(nil)

func (m *kernelMaps) PutFrontend(key bpf.SocketEndpoint, e entry) error {
	return m.frontends.put(key, e)
}

func (m *kernelMaps) DeleteFrontend(key bpf.SocketEndpoint) (cell uint32, was bool, err error) {
	cell, was = m.frontends.delete(key)
	return cell, was, nil
}

func (m *kernelMaps) ReuseFrontend(cell uint32) { m.frontends.reuse(cell) }

func (m *kernelMaps) ResetService(id uint32, record bpf.SocketService) error {
	m.services.values[id] = record
	return nil
}

func (m *kernelMaps) PutPolicy(service uint32, flags bpf.SocketServiceFlags, affinitySeconds uint32) error {
	record := &m.services.values[service]
	atomic.StoreUint32((*uint32)(&record.Flags), uint32(flags))
	atomic.StoreUint32(&record.AffinitySeconds, affinitySeconds)
	return nil
}

func (m *kernelMaps) PutRun(service uint32, local bool, word uint64) error {
	record := &m.services.values[service]
	if local {
		atomic.StoreUint64(&record.LocalRun, word)
	} else {
		atomic.StoreUint64(&record.Run, word)
	}
	return nil
}

func (m *kernelMaps) PutSlots(base uint32, backends []uint32) error {
	for i, id := range backends {
		slot := base + uint32(i)
		m.slots.values[slot/slotsEach].Backend[slot%slotsEach] = id
	}
	return nil
}

// PutBackend writes the serial first and the flags last: a client's affinity may
// still name the id for the backend that had it before.
func (m *kernelMaps) PutBackend(id uint32, record bpf.SocketBackend) error {
	at := &m.backends.values[id]
	atomic.StoreUint32(&at.Serial, record.Serial)
	at.Key, at.Service, at.Node = record.Key, record.Service, record.Node
	atomic.StoreUint32(&at.Active, 0)
	atomic.StoreUint64(&at.Connections, 0)
	atomic.StoreUint32(&at.Flows, 0)
	atomic.StoreUint32(&at.Failed, 0)
	atomic.StoreUint32((*uint32)(&at.Flags), uint32(record.Flags))
	return nil
}

func (m *kernelMaps) PutBackendFlags(id uint32, flags bpf.SocketBackendFlags) error {
	atomic.StoreUint32((*uint32)(&m.backends.values[id].Flags), uint32(flags))
	return nil
}

func (m *kernelMaps) PutReverse(key bpf.SocketEndpoint, backend uint32) error {
	return m.reverse.Put(key, backend)
}
func (m *kernelMaps) DeleteReverse(key bpf.SocketEndpoint) error { return m.reverse.Delete(key) }

func (m *kernelMaps) PutPrimary(service uint32, key bpf.SocketEndpoint) error {
	return m.primaries.Put(service, key)
}

func (m *kernelMaps) PutSource(key bpf.SocketSourceKey) error    { return m.sources.Put(key, 1) }
func (m *kernelMaps) DeleteSource(key bpf.SocketSourceKey) error { return m.sources.Delete(key) }

func (m *kernelMaps) PutNode(id uint32, record bpf.SocketNode) error { return m.nodes.Put(id, record) }

func (m *kernelMaps) PutAddress(key bpf.SocketAddress, flags bpf.SocketAddressFlags) error {
	return m.addresses.Put(key, flags)
}
func (m *kernelMaps) DeleteAddress(key bpf.SocketAddress) error { return m.addresses.Delete(key) }

func (m *kernelMaps) PutName(key bpf.SocketNameKey, name string) error {
	return m.names.Put(key, encodeName(name))
}
func (m *kernelMaps) DeleteName(key bpf.SocketNameKey) error { return m.names.Delete(key) }

func toAddress(addr netip.Addr) bpf.SocketAddress {
	return bpf.SocketAddress{Word: bpf.ToNetwork(addr)}
}

func fromAddress(a bpf.SocketAddress) netip.Addr { return bpf.FromNetwork(a.Word) }

func toNetwork(f Frontend) bpf.SocketEndpoint {
	return bpf.SocketEndpoint{
		Addr:     toAddress(f.Addr),
		Port:     bpf.SwapPort(f.Port),
		Protocol: uint8(f.Protocol),
		Scope:    uint8(f.Scope),
	}
}

func fromNetwork(e bpf.SocketEndpoint) Frontend {
	return Frontend{
		Addr:     fromAddress(e.Addr),
		Port:     bpf.SwapPort(e.Port),
		Protocol: Protocol(e.Protocol),
		Scope:    Scope(e.Scope),
	}
}

// encodeName keeps names that are too long distinct by a hash of the whole.
func encodeName(name string) bpf.SocketName {
	var out bpf.SocketName
	name = storedName(name)
	copy(out.Text[:], name)
	return out
}

// storedName is a name as encodeName stores it.
func storedName(name string) string {
	const room = len(bpf.SocketName{}.Text) - 1
	if len(name) > room {
		sum := sha256.Sum256([]byte(name))
		tail := "~" + hex.EncodeToString(sum[:16])
		name = name[:room-len(tail)] + tail
	}
	return name
}

func decodeName(name bpf.SocketName) string {
	text, _, _ := bytes.Cut(name.Text[:], []byte{0})
	return string(text)
}

package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
)

// table is a map whose key and value types the compiler checks.
type table[K comparable, V any] struct{ m *ebpf.Map }

func (t table[K, V]) get(key K) (value V, ok bool, err error) {
	err = t.m.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	return value, err == nil, t.explain(err)
}

func (t table[K, V]) put(key K, value V) error {
	return t.explain(t.m.Update(&key, &value, ebpf.UpdateAny))
}

// delete succeeds if the key is absent afterwards.
func (t table[K, V]) delete(key K) error {
	if err := t.m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return t.explain(err)
	}
	return nil
}

// all reads a hash map into memory. Only the owner of the maps and Dump use
// it; an entry changed meanwhile is seen either way.
func (t table[K, V]) all() (map[K]V, error) {
	entries := map[K]V{}
	var key K
	var value V
	iterator := t.m.Iterate()
	for iterator.Next(&key, &value) {
		entries[key] = value
	}
	return entries, t.explain(iterator.Err())
}

func (t table[K, V]) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("map %s: %w", t.m.String(), err)
}

// kernelMaps gives every pinned map its types.
type kernelMaps struct {
	byName      map[string]*ebpf.Map
	objects     *bpf.SocketMaps
	services    table[bpf.SocketEndpoint, uint32]
	frontends   table[uint32, bpf.SocketFrontendRecord]
	slots       table[uint32, uint32]
	backends    table[uint32, bpf.SocketBackend]
	connections table[uint32, uint64]
	nodes       table[uint32, bpf.SocketNode]
	cursors     table[uint32, bpf.SocketServiceState]
	primaries   table[uint32, bpf.SocketEndpoint]
	reverse     table[bpf.SocketEndpoint, uint32]
	names       table[bpf.SocketNameKey, bpf.SocketName]
	layout      table[uint32, bpf.SocketLayout]
	addresses   table[bpf.SocketAddress, bpf.SocketAddressFlags]
	config      table[uint32, bpf.SocketConfig]
}

func newMaps(objects *bpf.SocketMaps, byName map[string]*ebpf.Map) *kernelMaps {
	return &kernelMaps{
		byName:      byName,
		objects:     objects,
		services:    table[bpf.SocketEndpoint, uint32]{objects.SkepServices},
		frontends:   table[uint32, bpf.SocketFrontendRecord]{objects.SkepFrontends},
		slots:       table[uint32, uint32]{objects.SkepSlots},
		backends:    table[uint32, bpf.SocketBackend]{objects.SkepBackends},
		connections: table[uint32, uint64]{objects.SkepConnections},
		nodes:       table[uint32, bpf.SocketNode]{objects.SkepNodes},
		cursors:     table[uint32, bpf.SocketServiceState]{objects.SkepCursors},
		primaries:   table[uint32, bpf.SocketEndpoint]{objects.SkepPrimaries},
		reverse:     table[bpf.SocketEndpoint, uint32]{objects.SkepReverse},
		names:       table[bpf.SocketNameKey, bpf.SocketName]{objects.SkepNames},
		layout:      table[uint32, bpf.SocketLayout]{objects.SkepLayout},
		addresses:   table[bpf.SocketAddress, bpf.SocketAddressFlags]{objects.SkepAddresses},
		config:      table[uint32, bpf.SocketConfig]{objects.SkepConfig},
	}
}

func (m *kernelMaps) Close() error { return m.objects.Close() }

// readSlots returns the backend ids of one run.
func (m *kernelMaps) readSlots(r run) ([]uint32, error) {
	slots := make([]uint32, r.count)
	for i := range slots {
		id, ok, err := m.slots.get(r.base + uint32(i))
		if err != nil || !ok {
			return nil, errors.Join(err, fmt.Errorf("slot %d of run %v is unreadable", i, r))
		}
		slots[i] = id
	}
	return slots, nil
}

// writer is every way in which the reconciler changes the kernel's tables.
// Each call is atomic to programs but PutSlots, whose run nothing refers to yet.
type writer interface {
	PutService(key bpf.SocketEndpoint, frontend uint32) error
	DeleteService(key bpf.SocketEndpoint) error
	PutFrontend(index uint32, record bpf.SocketFrontendRecord) error
	PutSlots(base uint32, backends []uint32) error
	PutBackend(id uint32, record bpf.SocketBackend) error
	ResetConnections(backend uint32) error
	PutReverse(key bpf.SocketEndpoint, backend uint32) error
	DeleteReverse(key bpf.SocketEndpoint) error
	ResetState(service uint32) error
	PutPrimary(service uint32, key bpf.SocketEndpoint) error
	PutNode(id uint32, record bpf.SocketNode) error
	PutName(key bpf.SocketNameKey, name string) error
	DeleteName(key bpf.SocketNameKey) error
	PutAddress(key bpf.SocketAddress, flags bpf.SocketAddressFlags) error
	DeleteAddress(key bpf.SocketAddress) error
}

var _ writer = (*kernelMaps)(nil)

func (m *kernelMaps) PutService(key bpf.SocketEndpoint, frontend uint32) error {
	return m.services.put(key, frontend)
}
func (m *kernelMaps) DeleteService(key bpf.SocketEndpoint) error { return m.services.delete(key) }

func (m *kernelMaps) PutFrontend(index uint32, record bpf.SocketFrontendRecord) error {
	return m.frontends.put(index, record)
}

func (m *kernelMaps) PutSlots(base uint32, backends []uint32) error {
	if len(backends) == 0 {
		return nil
	}
	keys := make([]uint32, len(backends))
	for i := range keys {
		keys[i] = base + uint32(i)
	}
	_, err := m.slots.m.BatchUpdate(keys, backends, nil)
	return m.slots.explain(err)
}

func (m *kernelMaps) PutBackend(id uint32, record bpf.SocketBackend) error {
	return m.backends.put(id, record)
}
func (m *kernelMaps) ResetConnections(backend uint32) error { return m.connections.put(backend, 0) }

func (m *kernelMaps) PutReverse(key bpf.SocketEndpoint, backend uint32) error {
	return m.reverse.put(key, backend)
}
func (m *kernelMaps) DeleteReverse(key bpf.SocketEndpoint) error { return m.reverse.delete(key) }

func (m *kernelMaps) ResetState(service uint32) error {
	return m.cursors.put(service, bpf.SocketServiceState{})
}

func (m *kernelMaps) PutPrimary(service uint32, key bpf.SocketEndpoint) error {
	return m.primaries.put(service, key)
}
func (m *kernelMaps) PutNode(id uint32, record bpf.SocketNode) error { return m.nodes.put(id, record) }

func (m *kernelMaps) PutName(key bpf.SocketNameKey, name string) error {
	return m.names.put(key, encodeName(name))
}
func (m *kernelMaps) DeleteName(key bpf.SocketNameKey) error { return m.names.delete(key) }

func (m *kernelMaps) PutAddress(key bpf.SocketAddress, flags bpf.SocketAddressFlags) error {
	return m.addresses.put(key, flags)
}
func (m *kernelMaps) DeleteAddress(key bpf.SocketAddress) error { return m.addresses.delete(key) }

// encodeName keeps names that are too long distinct by a hash of the whole.
func encodeName(name string) bpf.SocketName {
	var out bpf.SocketName
	name = storedName(name)
	copy(out.Text[:], name)
	return out
}

// storedName is what encodeName leaves of a name.
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

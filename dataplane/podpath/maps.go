package podpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// The pin folder:
//
//	maps/NAME          maps that no other package owns
//	links/INDEX-HOOK   one link per interface and hook (tcx only)
const (
	mapPins  = "maps"
	linkPins = "links"
)

const maxRanges = len(bpf.PodPathConfig{}.Ranges)

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

// kernelMaps gives the maps that this package owns their types.
type kernelMaps struct {
	byName   map[string]*ebpf.Map // what the programs are loaded over
	own      []*ebpf.Map
	pods     table[bpf.PodAddress, bpf.PodPod]
	config   table[uint32, bpf.PodPathConfig]
	traffic  *ebpf.Map
	counters *ebpf.Map
}

// openMaps takes every map of spec from the given owners, or from the pin folder, or makes it and pins it there. adopted:
// the pods' map was there.
func openMaps(dir string, spec *ebpf.CollectionSpec, owners ...Maps) (m *kernelMaps, adopted bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make pin folder: %w", err)
	}
	m = &kernelMaps{byName: map[string]*ebpf.Map{}}
	for _, owner := range owners {
		if owner == nil {
			continue
		}
		for name, shared := range owner.Maps() {
			if mapSpec := spec.Maps[name]; mapSpec != nil {
				mapSpec.MaxEntries = shared.MaxEntries() // its owner's choice
				m.byName[name] = shared
			}
		}
	}
	for name, mapSpec := range spec.Maps {
		if m.byName[name] != nil {
			continue
		}
		own, found, err := openMap(filepath.Join(dir, name), mapSpec)
		if err != nil {
			m.Close()
			return nil, false, err
		}
		m.byName[name], m.own = own, append(m.own, own)
		if name == bpf.PodMapSkepPods {
			adopted = found
		}
	}
	m.pods.m = m.byName[bpf.PodMapSkepPods]
	m.config.m = m.byName[bpf.PodMapSkepPathConfig]
	m.traffic = m.byName[bpf.PodMapSkepTraffic]
	m.counters = m.byName[bpf.PodMapSkepPathCounters]
	return m, adopted, nil
}

// openMap opens a pinned map that has the layout of spec, or makes one. A map of another layout is replaced: running programs
// keep the old one until their pod is attached again.
func openMap(pin string, spec *ebpf.MapSpec) (m *ebpf.Map, found bool, err error) {
	m, err = ebpf.LoadPinnedMap(pin, nil)
	if err == nil && m.Type() == spec.Type && m.KeySize() == spec.KeySize && m.ValueSize() == spec.ValueSize &&
		m.MaxEntries() == spec.MaxEntries && m.Flags() == spec.Flags {
		return m, true, nil
	}
	if err == nil {
		m.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("open pinned map %s: %w", pin, err)
	}
	m, err = ebpf.NewMap(spec)
	if err != nil {
		return nil, false, fmt.Errorf("create map %s: %w", spec.Name, err)
	}
	unfinished := pin + "_next"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.Close()
		return nil, false, fmt.Errorf("remove unfinished pin: %w", err)
	}
	if err := errors.Join(m.Pin(unfinished), os.Rename(unfinished, pin)); err != nil {
		m.Close()
		return nil, false, fmt.Errorf("pin map %s: %w", spec.Name, err)
	}
	return m, false, nil
}

func (m *kernelMaps) Close() error {
	var failed []error
	for _, own := range m.own {
		failed = append(failed, own.Close())
	}
	return errors.Join(failed...)
}

// lockPins makes this process the only owner of the folder until it ends.
func lockPins(dir string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, linkPins), 0o700); err != nil {
		return nil, fmt.Errorf("make pin folder: %w", err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open pin folder: %w", err)
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		folder.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("pin folder %s is owned by another process: stop that agent first", dir)
		}
		return nil, fmt.Errorf("lock pin folder %s: %w", dir, err)
	}
	return folder, nil
}

// The maps hold addresses as 16 bytes and ports as 2, both in network order. The functions below are the only ones that know.

func toNetwork(addr netip.Addr) (a bpf.PodAddress) {
	bytes := addr.As16()
	for i := range a.Word {
		a.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return a
}

func fromNetwork(words [4]uint32) netip.Addr {
	var bytes [16]byte
	for i, word := range words {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	return netip.AddrFrom16(bytes).Unmap()
}

func endpointFromNetwork(e bpf.PodEndpoint) netip.AddrPort {
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], e.Port)
	return netip.AddrPortFrom(fromNetwork(e.Addr.Word), binary.BigEndian.Uint16(port[:]))
}

// maskOf is the mask over 16 bytes of a prefix, of which an IPv4 one's begins with the mapping prefix.
func maskOf(p netip.Prefix) bpf.PodAddress {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var bytes [16]byte
	for i := range bits {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	return toNetwork(netip.AddrFrom16(bytes))
}

func configOf(ranges []netip.Prefix, cookie uint64) (bpf.PodPathConfig, error) {
	config := bpf.PodPathConfig{
		Version: bpf.PodPathVersionPATH_VERSION,
		Hooks:   bpf.PodPathHookHOOK_COUNT,
		Netns:   cookie,
	}
	config.Hairpin4.Word = toNetwork(hairpin4).Word
	config.Hairpin6.Word = toNetwork(hairpin6).Word
	for i := range config.Ranges {
		// Matches the address of all ones only, which no pod has.
		for j := range 4 {
			config.Ranges[i].Base.Word[j], config.Ranges[i].Mask.Word[j] = ^uint32(0), ^uint32(0)
		}
		if i >= len(ranges) {
			continue
		}
		prefix := ranges[i]
		if !prefix.IsValid() {
			return config, fmt.Errorf("pod path: cluster range %d is no network prefix", i)
		}
		config.Ranges[i].Base.Word = toNetwork(prefix.Masked().Addr()).Word
		config.Ranges[i].Mask.Word = maskOf(prefix).Word
	}
	return config, nil
}

func endpointToNetwork(at netip.AddrPort, protocol uint8) bpf.PodEndpoint {
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], at.Port())
	return bpf.PodEndpoint{Addr: toNetwork(at.Addr()), Port: binary.NativeEndian.Uint16(port[:]), Protocol: protocol}
}

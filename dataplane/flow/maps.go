package flow

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// The pin folder:
//
//	mapsVERSION/NAME   maps that no other package owns
//	links/INDEX-MODE   one link per uplink; MODE is native, generic or fallback
//
// A folder of another version is of no use and goes when this one is in place.
const (
	mapPins  = "maps"
	linkPins = "links"

	// layoutVersion is raised whenever the meaning of a map's bytes changes.
	layoutVersion = 1
)

func mapFolder(dir string) string {
	return filepath.Join(dir, fmt.Sprint(mapPins, layoutVersion))
}

// table is a map whose key and value types the compiler checks.
type table[K comparable, V any] struct{ m *ebpf.Map }

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

// all reads the map into memory. Of one that programs write, entries that change meanwhile are seen either way, or not.
func (t table[K, V]) all() (map[K]V, error) {
	entries := map[K]V{}
	var key K
	var value V
	iterator := t.m.Iterate()
	for iterator.Next(&key, &value) {
		entries[key] = value
	}
	if err := iterator.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, t.explain(err)
	}
	return entries, nil
}

func (t table[K, V]) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("map %s: %w", t.m.String(), err)
}

// kernelMaps are the maps that the program is loaded over.
type kernelMaps struct {
	byName    map[string]*ebpf.Map
	own       map[string]bool // name -> it is pinned
	flows     table[bpf.UplinkFlowKey, bpf.UplinkFlow]
	uplinks   table[uint32, bpf.UplinkUplink]
	announced table[bpf.UplinkAddress, uint64]
	counters  *ebpf.Map
}

func specFor(limits Limits) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadUplink()
	if err != nil {
		return nil, err
	}
	for name, limit := range map[string]uint32{
		bpf.UplinkMapSkepFlows:     limits.Flows,
		bpf.UplinkMapSkepFragments: limits.Fragments,
	} {
		if limit != 0 {
			spec.Maps[name].MaxEntries = limit
		}
	}
	return spec, nil
}

// openMaps takes every map of spec from its owner, or from the pin folder, or makes it.
func openMaps(dir string, spec *ebpf.CollectionSpec, owner Maps, log *slog.Logger) (*kernelMaps, error) {
	m := &kernelMaps{byName: map[string]*ebpf.Map{}, own: map[string]bool{}}
	shared := owner.Maps()
	for name, mapSpec := range spec.Maps {
		if theirs := shared[name]; theirs != nil {
			mapSpec.MaxEntries = theirs.MaxEntries() // its owner's choice
			m.byName[name] = theirs
			continue
		}
		opened, pinned, err := openMap(filepath.Join(mapFolder(dir), name), mapSpec, log)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.byName[name], m.own[name] = opened, pinned
	}
	m.flows.m = m.byName[bpf.UplinkMapSkepFlows]
	m.uplinks.m = m.byName[bpf.UplinkMapSkepUplinks]
	m.announced.m = m.byName[bpf.UplinkMapSkepAnnounced]
	m.counters = m.byName[bpf.UplinkMapSkepUplinkCounters]
	return m, nil
}

// openMap opens a pinned map that has the layout of spec, or makes one. One of another layout is replaced when the program
// uses the new one.
func openMap(pin string, spec *ebpf.MapSpec, log *slog.Logger) (m *ebpf.Map, pinned bool, err error) {
	m, err = ebpf.LoadPinnedMap(pin, nil)
	switch {
	case err == nil && spec.Compatible(m) == nil:
		return m, true, nil
	case err == nil:
		log.Info("a pinned map is replaced: flows in it begin anew", "map", spec.Name, "reason", spec.Compatible(m))
		m.Close()
	case !errors.Is(err, os.ErrNotExist):
		return nil, false, fmt.Errorf("open pinned map %s: %w", pin, err)
	}
	m, err = ebpf.NewMap(spec)
	if err != nil {
		return nil, false, fmt.Errorf("create map %s: %w", spec.Name, err)
	}
	return m, false, nil
}

// pin makes the maps, which the program uses by now, those that a later process finds. Were they pinned before, a crash in
// between could leave the program on maps that nobody knows; now it leaves old pins, and the next process starts from those.
func (m *kernelMaps) pin(dir string) error {
	folder := mapFolder(dir)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	for name, pinned := range m.own {
		if pinned {
			continue
		}
		pin := filepath.Join(folder, name)
		if err := replacePin(pin, m.byName[name].Pin); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		m.own[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read pin folder: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if !strings.HasPrefix(entry.Name(), mapPins) || path == folder {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove maps of another version: %w", err)
		}
	}
	return nil
}

// replacePin pins something in one rename: who looks finds what was there before or what is new.
func replacePin(path string, pin func(string) error) error {
	unfinished := path + "_next"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := pin(unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// Close closes what this package opened.
func (m *kernelMaps) Close() error {
	var failed []error
	for name := range m.own {
		failed = append(failed, m.byName[name].Close())
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

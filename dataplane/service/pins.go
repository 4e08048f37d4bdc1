package service

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// The pin folder:
//
//	current/NAME  the maps
//	next/NAME     maps of another layout, being filled; renamed to current
//	links/NAME    one link per socket program
const (
	currentPins = "current"
	nextPins    = "next"
)

func layoutNow() bpf.SocketLayout {
	return bpf.SocketLayout{
		Version:     bpf.SocketLayoutVersionLAYOUT_VERSION,
		SocketScope: bpf.SocketFrontendScopeSCOPE_CLUSTER,
		IdShift:     bpf.SocketFrontendEntryENTRY_ID_SHIFT,
		CountShift:  bpf.SocketRunWordRUN_COUNT_SHIFT,
		KnownFlags:  bpf.SocketFrontendFlagsFRONTEND_KNOWN,
		Placement:   bpf.SocketPlacementHOME_BACKENDS,
	}
}

// loadPinned opens the maps pinned in one folder and checks that they have the
// layout of spec: fs.ErrNotExist if there are none, pinned.ErrLayout if they differ.
func loadPinned(dir string, spec *ebpf.CollectionSpec, readOnly bool) (*kernelMaps, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	collection := &ebpf.Collection{Maps: map[string]*ebpf.Map{}}
	defer collection.Close()
	for name, mapSpec := range spec.Maps {
		m, err := pinned.OpenMap(filepath.Join(dir, name), mapSpec, readOnly)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s is missing", pinned.ErrLayout, name)
		}
		if err != nil {
			return nil, err
		}
		collection.Maps[name] = m
	}
	m, err := newMaps(detach(collection), !readOnly)
	if err != nil {
		return nil, err
	}
	layout, _, err := m.layout.Get(0)
	if err != nil {
		m.Close()
		return nil, err
	}
	m.frontends.hash = layout.Hash
	layout.Hash = bpf.SocketFrontendHash{} // random
	if layout != layoutNow() {
		m.Close()
		return nil, fmt.Errorf("%w: version %d, not %d", pinned.ErrLayout, layout.Version, layoutNow().Version)
	}
	return m, nil
}

// createPinned makes empty maps and pins them in a folder of their own.
func createPinned(dir string, spec *ebpf.CollectionSpec) (*kernelMaps, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("remove unfinished pins: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin folder: %w", err)
	}
	onlyMaps := &ebpf.CollectionSpec{Maps: spec.Maps, Types: spec.Types}
	collection, err := ebpf.NewCollection(onlyMaps)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", err)
	}
	defer collection.Close()
	for name, m := range collection.Maps {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	m, err := newMaps(detach(collection), true)
	if err != nil {
		return nil, err
	}
	layout := layoutNow()
	layout.Hash = newFrontendHash(m.frontends.lines(), uint32(len(m.services.values)))
	m.frontends.hash = layout.Hash
	if err := m.layout.Put(0, layout); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// detach removes the maps from a collection, which no longer closes them.
func detach(collection *ebpf.Collection) map[string]*ebpf.Map {
	byName := maps.Clone(collection.Maps)
	clear(collection.Maps)
	return byName
}

// specFor returns the programs and maps with the sizes asked for.
func specFor(limits *Limits) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	size := func(limit *uint32, each uint32, names ...string) {
		for _, name := range names {
			if *limit == 0 {
				*limit = spec.Maps[name].MaxEntries * each
			}
			spec.Maps[name].MaxEntries = max(1, *limit/each)
		}
	}
	frontends := spec.Maps[bpf.SocketMapSkepFrontends]
	if limits.Frontends == 0 {
		limits.Frontends = frontends.MaxEntries
	}
	frontends.MaxEntries = frontendLines(limits.Frontends)
	size(&limits.Services, 1, bpf.SocketMapSkepServices, bpf.SocketMapSkepPrimaries)
	size(&limits.Backends, 1, bpf.SocketMapSkepBackends, bpf.SocketMapSkepReverse)
	size(&limits.Slots, slotsEach, bpf.SocketMapSkepSlots)
	size(&limits.Nodes, 1, bpf.SocketMapSkepNodes)
	limits.Slots = spec.Maps[bpf.SocketMapSkepSlots].MaxEntries * slotsEach
	spec.Maps[bpf.SocketMapSkepNames].MaxEntries = limits.Services + limits.Nodes
	return spec, nil
}

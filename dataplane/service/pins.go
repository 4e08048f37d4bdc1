package service

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// The pin folder:
//
//	current/NAME  the maps
//	next/NAME     maps of another layout, being filled; renamed to current
//	links/NAME    one link per socket program
const (
	currentPins = "current"
	nextPins    = "next"
	linkPins    = "links"
)

// errLayout says that pinned maps were made for another layout.
var errLayout = errors.New("pinned maps have another layout")

func layoutNow() bpf.SocketLayout {
	return bpf.SocketLayout{
		Version:     bpf.SocketLayoutVersionLAYOUT_VERSION,
		SocketScope: bpf.SocketFrontendScopeSCOPE_CLUSTER,
		IdShift:     bpf.SocketFrontendEntryENTRY_ID_SHIFT,
		CountShift:  bpf.SocketRunWordRUN_COUNT_SHIFT,
		KnownFlags:  bpf.SocketFrontendFlagsFRONTEND_KNOWN,
	}
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

// loadPinned opens the maps pinned in one folder and checks that they have the
// layout of spec: fs.ErrNotExist if there are none, errLayout if they differ.
func loadPinned(dir string, spec *ebpf.CollectionSpec, opts *ebpf.LoadPinOptions) (*kernelMaps, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	collection := &ebpf.Collection{Maps: map[string]*ebpf.Map{}}
	defer collection.Close()
	for name, mapSpec := range spec.Maps {
		access := opts
		if mapSpec.Flags&unix.BPF_F_MMAPABLE != 0 {
			access = nil // the kernel shares memory with those only who may write
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), access)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s is missing", errLayout, name)
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		collection.Maps[name] = m
		// Checked by hand: a map opened read-only has another flag set.
		if m.Type() != mapSpec.Type || m.KeySize() != mapSpec.KeySize || m.ValueSize() != mapSpec.ValueSize {
			return nil, fmt.Errorf("%w: %s", errLayout, name)
		}
		if opts == nil && m.MaxEntries() != mapSpec.MaxEntries {
			return nil, fmt.Errorf("%w: %s has %d entries, not %d", errLayout, name, m.MaxEntries(), mapSpec.MaxEntries)
		}
	}
	m, err := newMaps(detach(collection), opts == nil)
	if err != nil {
		return nil, err
	}
	layout, _, err := m.layout.get(0)
	if err != nil {
		m.Close()
		return nil, err
	}
	if layout != layoutNow() {
		m.Close()
		return nil, fmt.Errorf("%w: version %d, not %d", errLayout, layout.Version, layoutNow().Version)
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
	if err := m.layout.put(0, layoutNow()); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// detach takes the maps out of a collection, which no longer closes them.
func detach(collection *ebpf.Collection) map[string]*ebpf.Map {
	byName := maps.Clone(collection.Maps)
	clear(collection.Maps)
	return byName
}

// promote makes next the current folder in one rename: before it the old maps
// are found, after it the new ones, never none.
func promote(dir string) error {
	next, current := filepath.Join(dir, nextPins), filepath.Join(dir, currentPins)
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, current, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(next, current)
	}
	if err != nil {
		return fmt.Errorf("replace pinned maps: %w", err)
	}
	if err := os.RemoveAll(next); err != nil {
		return fmt.Errorf("remove replaced maps: %w", err)
	}
	return nil
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
	size(&limits.Frontends, 1, bpf.SocketMapSkepFrontends)
	size(&limits.Services, 1, bpf.SocketMapSkepServices, bpf.SocketMapSkepPrimaries)
	size(&limits.Backends, 1, bpf.SocketMapSkepBackends, bpf.SocketMapSkepReverse)
	size(&limits.Slots, slotsEach, bpf.SocketMapSkepSlots)
	size(&limits.Nodes, 1, bpf.SocketMapSkepNodes)
	limits.Slots = spec.Maps[bpf.SocketMapSkepSlots].MaxEntries * slotsEach
	spec.Maps[bpf.SocketMapSkepNames].MaxEntries = limits.Services + limits.Nodes
	return spec, nil
}

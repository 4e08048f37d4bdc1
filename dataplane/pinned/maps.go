package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrLayout says that pinned maps were made for another layout.
var ErrLayout = errors.New("pinned maps have another layout")

// shape is what the kernel reports of a map's layout.
type shape struct {
	Type                             ebpf.MapType
	Key, Value, Entries, CreateFlags uint32
}

// OpenMap opens the map pinned at a path: fs.ErrNotExist if there is none, ErrLayout if it has not the layout of spec. One
// that is opened for reading may have another size.
func OpenMap(pin string, spec *ebpf.MapSpec, readOnly bool) (*ebpf.Map, error) {
	// The kernel maps memory only for descriptors that may write.
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: readOnly && spec.Flags&unix.BPF_F_MMAPABLE == 0})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w: if it is no map, remove it", pin, err)
	}
	found := shape{m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags()}
	wanted := shape{spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags}
	if readOnly {
		found.Entries, found.CreateFlags = wanted.Entries, wanted.CreateFlags
	}
	if found != wanted {
		m.Close()
		return nil, fmt.Errorf("%w: %s is %+v, not %+v", ErrLayout, pin, found, wanted)
	}
	return m, nil
}

// Owner has kernel maps by their names in C.
type Owner interface{ Maps() map[string]*ebpf.Map }

// Maps are what programs are loaded over: those of other owners, and one's own, which are kept in a pin folder.
type Maps struct {
	ByName map[string]*ebpf.Map // all, by their names in C
	dir    string
	folder string          // below dir, of this layout
	pinned map[string]bool // own map -> it is pinned
}

const mapFolder = "maps"

// OpenMaps opens every map of spec at its owner's or in the folder, or makes it. A pinned map of another version or layout
// is not used: running programs keep it until they are replaced.
func OpenMaps(dir string, version int, spec *ebpf.CollectionSpec, log *slog.Logger, owners ...Owner) (*Maps, error) {
	m := &Maps{ByName: map[string]*ebpf.Map{}, dir: dir, pinned: map[string]bool{}}
	m.folder = filepath.Join(dir, fmt.Sprint(mapFolder, version))
	for _, owner := range owners {
		for name, theirs := range owner.Maps() {
			if mapSpec := spec.Maps[name]; mapSpec != nil {
				mapSpec.MaxEntries = theirs.MaxEntries() // its owner's choice
				m.ByName[name] = theirs
			}
		}
	}
	for name, mapSpec := range spec.Maps {
		if m.ByName[name] != nil {
			continue
		}
		if err := m.open(name, mapSpec, log); err != nil {
			m.Close()
			return nil, err
		}
	}
	return m, nil
}

func (m *Maps) open(name string, spec *ebpf.MapSpec, log *slog.Logger) error {
	opened, err := OpenMap(filepath.Join(m.folder, name), spec, false)
	found := err == nil
	switch {
	case errors.Is(err, ErrLayout):
		log.Info("a pinned map is replaced: what it holds begins anew", "map", name, "err", err)
		fallthrough
	case errors.Is(err, fs.ErrNotExist):
		opened, err = ebpf.NewMap(spec)
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", name, err)
	}
	m.ByName[name], m.pinned[name] = opened, found
	return nil
}

// Pinned says whether a map is one's own and was found, or has been pinned since.
func (m *Maps) Pinned(name string) bool { return m.pinned[name] }

// Own are the maps that are no other owner's.
func (m *Maps) Own() map[string]*ebpf.Map {
	own := map[string]*ebpf.Map{}
	for name := range m.pinned {
		own[name] = m.ByName[name]
	}
	return own
}

// Pin makes the maps, which programs use by now, those that a later process adopts, and removes those of other versions. If
// they were pinned before, a crash in between could leave programs on other maps than the pinned ones; in this order it leaves
// the old pins, and the next process starts from those.
func (m *Maps) Pin() error {
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	for name, pinned := range m.pinned {
		if pinned {
			continue
		}
		if err := Replace(filepath.Join(m.folder, name), m.ByName[name].Pin); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		m.pinned[name] = true
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("read pin folder: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(m.dir, entry.Name())
		if !strings.HasPrefix(entry.Name(), mapFolder) || path == m.folder {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove maps of another version: %w", err)
		}
	}
	return nil
}

// Close closes one's own maps. Their pins stay.
func (m *Maps) Close() error {
	var failed []error
	for _, own := range m.Own() {
		failed = append(failed, own.Close())
	}
	return errors.Join(failed...)
}

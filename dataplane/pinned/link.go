package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// LinkPath is where a folder has the link of a name.
func LinkPath(dir, name string) string { return filepath.Join(dir, linkFolder, name) }

// Links lists the names of a folder's links.
func Links(dir string) (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, linkFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// LinksByInterface lists the paths of a folder's links whose names begin with the index of an interface and a dash.
func LinksByInterface(dir string) (map[int][]string, error) {
	names, err := Links(dir)
	pins := map[int][]string{}
	for _, name := range names {
		number, _, _ := strings.Cut(name, "-")
		index, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("pinned link %s does not begin with the index of an interface: remove it", LinkPath(dir, name))
		}
		pins[index] = append(pins[index], LinkPath(dir, name))
	}
	return pins, err
}

func openLink(pin string) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open pinned link %s: %w: if it is no link, remove it", pin, err)
	}
	return l, err
}

// Attach makes a place run a program through the link pinned at a path: the existing one, updated, or else a fresh one, which
// replaces the pin of one at another place (which no longer exists), and is held by its descriptor until then.
func Attach(pin string, program *ebpf.Program, here func(*link.Info) bool, fresh func() (link.Link, error)) error {
	if done, err := Adopt(pin, program, here); done || err != nil {
		return err
	}
	l, err := fresh()
	if err != nil {
		return err
	}
	defer l.Close()
	return Replace(pin, l.Pin)
}

// Adopt makes a pinned link run a program if there is one and it is here. Its program is replaced in one step, unless it
// runs the same code over the same maps.
func Adopt(pin string, program *ebpf.Program, here func(*link.Info) bool) (done bool, err error) {
	l, err := openLink(pin)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("ask what the pinned link %s is: %w", pin, err)
	}
	if !here(info) {
		return false, nil
	}
	same, err := Runs(info.Program, program)
	if err == nil && !same {
		err = l.Update(program)
	}
	if err != nil {
		return false, fmt.Errorf("replace the program of pinned link %s: %w", pin, err)
	}
	return true, nil
}

// Runs says whether the running program of that id is the same code over the same maps as one that was just loaded.
func Runs(id ebpf.ProgramID, program *ebpf.Program) (bool, error) {
	running, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false, fmt.Errorf("open running program %d: %w", id, err)
	}
	defer running.Close()
	a, err := running.Info()
	if err != nil {
		return false, err
	}
	b, err := program.Info()
	if err != nil {
		return false, err
	}
	mapsA, _ := a.MapIDs()
	mapsB, _ := b.MapIDs()
	slices.Sort(mapsA)
	slices.Sort(mapsB)
	return a.Tag == b.Tag && slices.Equal(mapsA, mapsB), nil
}

// Detach removes a pinned link, and with it its program. It succeeds if there is none.
func Detach(pin string) error {
	l, err := openLink(pin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	// Another process may hold the link open: unpinning alone would leave the program attached.
	if err := l.Detach(); err != nil {
		return fmt.Errorf("detach %s: %w: try `bpftool link detach pinned %s`", pin, err, pin)
	}
	return os.Remove(pin)
}

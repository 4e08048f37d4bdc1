package pinned

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

type others map[string]*ebpf.Map

func (o others) Maps() map[string]*ebpf.Map { return o }

func openMaps(t *testing.T, dir string, version int, entries uint32, owners ...Owner) *Maps {
	t.Helper()
	spec := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}}
	for _, name := range []string{"one", "two"} {
		spec.Maps[name] = &ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: entries}
	}
	m, err := OpenMaps(dir, version, spec, slog.New(slog.DiscardHandler), owners...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func table(m *Maps) Table[uint32, uint64] { return Table[uint32, uint64]{Map: m.ByName["one"]} }

func TestMapsAreFoundOnceTheyArePinned(t *testing.T) {
	dir := filepath.Join(sandbox.Pins(t), "owner")
	first := openMaps(t, dir, 1, 8)
	if err := errors.Join(table(first).Put(1, 7), first.Pin()); err != nil {
		t.Fatal(err)
	}
	unused := openMaps(t, dir, 1, 9) // its process ends before it pins
	if err := table(unused).Put(1, 8); err != nil || unused.Pinned("one") {
		t.Fatalf("maps of another size: pinned %v, %v", unused.Pinned("one"), err)
	}
	found := openMaps(t, dir, 1, 8)
	if value, ok, err := table(found).Get(1); !found.Pinned("one") || !ok || err != nil || value != 7 {
		t.Errorf("found %d, %v, %v, want what the last process left", value, ok, err)
	}
	next := openMaps(t, dir, 2, 8)
	if all, err := table(next).All(); next.Pinned("one") || err != nil || len(all) != 0 {
		t.Errorf("another version has %v of the one before, %v", all, err)
	}
	if err := next.Pin(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "maps1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the version before is left: %v", err)
	}
	borrowing := openMaps(t, dir, 3, 20, others{"one": next.ByName["one"], "other": next.ByName["two"]})
	if own := borrowing.Own(); len(own) != 1 || own["two"] == nil || table(borrowing).Map.MaxEntries() != 8 {
		t.Errorf("own maps %v beside those of another owner", own)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal("nothing to remove: ", err)
	}
}

func TestErrorsNameThePinAndTheWayOut(t *testing.T) {
	dir := filepath.Join(sandbox.Pins(t), "owner")
	lock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	m := openMaps(t, dir, 1, 1)
	if err := errors.Join(table(m).Put(1, 1), m.Pin()); err != nil {
		t.Fatal(err)
	}
	pin, spec := filepath.Join(dir, "maps1", "one"), &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	_, locked := Lock(dir)
	_, layout := OpenMap(pin, spec, true)
	full := table(m).Put(2, 1)
	if err := os.Rename(pin, LinkPath(dir, "map")); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(layout, ErrLayout) || !errors.Is(full, ErrFull) {
		t.Errorf("layout: %v, full: %v", layout, full)
	}
	for want, err := range map[string]error{
		dir + " is owned by another process: stop that agent": locked,
		pin + " is {Type:Hash Key:4 Value:8 ":                 layout,
		"all 1 entries of map ":                               full,
		LinkPath(dir, "map") + ": ":                           Detach(LinkPath(dir, "map")),
		"remove it":                                           Detach(LinkPath(dir, "map")),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if err := os.Remove(LinkPath(dir, "map")); err != nil {
		t.Fatal(err)
	}
}

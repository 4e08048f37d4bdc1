package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// Maps of another layout are used until the new ones are filled, then removed.
func TestAnotherLayoutIsReplacedAtomically(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	serve(t, TCP, three[0])
	serve(t, TCP, three[1])
	old, _ := s.recording(t, Limits{Slots: 64})
	old.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three[0]))
	flush(t, old)
	old.Close()

	p := s.open(t)
	flush(t, p)
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[0] {
		t.Errorf("while the new maps are empty: %s, %v", from, err)
	}
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three[1]))
	flush(t, p)
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[0] {
		t.Errorf("before Synced: %s, %v", from, err)
	}
	p.Synced()
	flush(t, p)
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[1] {
		t.Errorf("after Synced: %s, %v", from, err)
	}
	if _, err := os.Stat(filepath.Join(s.pins, nextPins)); !os.IsNotExist(err) {
		t.Errorf("next is left behind: %v", err)
	}
	found, err := DumpPinned(s.pins)
	if err != nil || found.Services[0].Connections != 1 {
		t.Errorf("pinned maps: %+v, %v", found, err)
	}
	p.Close()

	// A changed version alone is another layout too.
	again := s.open(t)
	layout := layoutNow()
	layout.Version++
	if err := again.maps.layout.Put(0, layout); err != nil {
		t.Fatal(err)
	}
	again.Close()
	fresh := s.open(t)
	fresh.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three[0]))
	fresh.Synced()
	flush(t, fresh)
	if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[0] {
		t.Errorf("after the second replacement: %s, %v", from, err)
	}
}

// A link whose program has the same code stays; one that differs is replaced in
// place, so that its id does not change.
func TestLinksAreUpgradedInPlace(t *testing.T) {
	s := newStage(t)
	state := func() (links, programs map[string]uint32) {
		links, programs = map[string]uint32{}, map[string]uint32{}
		for _, h := range hooks(&bpf.SocketPrograms{}) {
			l, err := link.LoadPinnedLink(pinned.LinkPath(s.pins, h.name), nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			links[h.name], programs[h.name] = uint32(info.ID), uint32(info.Program)
			l.Close()
		}
		return links, programs
	}
	s.open(t).Close()
	links, programs := state()
	if len(links) != 9 {
		t.Fatalf("%d links, want 9", len(links))
	}
	s.open(t).Close()
	sameLinks, samePrograms := state()
	for name := range links {
		if links[name] != sameLinks[name] || programs[name] != samePrograms[name] {
			t.Errorf("%s: an unchanged program was replaced", name)
		}
	}
	ours, err := link.LoadPinnedLink(pinned.LinkPath(s.pins, bpf.SocketProgSkepConnect4), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := ours.Update(passProgram(t)); err != nil {
		t.Fatal(err)
	}
	s.open(t).Close()
	newLinks, newPrograms := state()
	for name := range links {
		if links[name] != newLinks[name] {
			t.Errorf("%s: the link was made anew", name)
		}
		if (newPrograms[name] != programs[name]) != (name == bpf.SocketProgSkepConnect4) {
			t.Errorf("%s: program %d became %d", name, programs[name], newPrograms[name])
		}
	}
}

// A host that rebooted has a new cgroup of the same name: its links are made anew,
// over the pinned maps.
func TestRecreatedCgroupIsAttachedAgain(t *testing.T) {
	s := newStage(t)
	p := s.open(t)
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80", three...))
	flush(t, p)
	p.Close()
	if err := os.Remove(s.cgroup); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	again := s.open(t)
	id, err := cgroupID(s.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks(&bpf.SocketPrograms{}) {
		l, err := link.LoadPinnedLink(pinned.LinkPath(s.pins, h.name), nil)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := l.Info(); err != nil || !onCgroup(id)(info) {
			t.Errorf("%s is not attached to the new cgroup: %v", h.name, err)
		}
		l.Close()
	}
	if d := dump(t, again); len(d.Services) != 1 || len(d.Services[0].Slots) != 3 {
		t.Errorf("services %+v, want the one that was there", d.Services)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	p := s.open(t)
	p.SetService(serviceOf("default/echo:http", TCP, "10.96.0.1:80"))
	flush(t, p)
	// Held open elsewhere, a link outlives its pin: it has to be detached.
	held, err := link.LoadPinnedLink(pinned.LinkPath(s.pins, bpf.SocketProgSkepConnect4), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	p.Close()
	for range 2 {
		if err := Remove(s.pins); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.pins); !os.IsNotExist(err) {
		t.Errorf("pin folder: %v", err)
	}
	if info, err := held.Info(); err == nil && info.Cgroup().CgroupId != 0 {
		t.Errorf("still attached to cgroup %d", info.Cgroup().CgroupId)
	}
	if _, err := DumpPinned(s.pins); err == nil || !strings.Contains(err.Error(), "is the agent of this node running?") {
		t.Errorf("DumpPinned of nothing: %v", err)
	}
}

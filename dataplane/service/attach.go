package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// loadPrograms loads every socket program over the given maps.
func loadPrograms(spec *ebpf.CollectionSpec, m *kernelMaps) (*bpf.SocketPrograms, error) {
	var programs bpf.SocketPrograms
	opts := &ebpf.CollectionOptions{MapReplacements: m.byName}
	if err := spec.LoadAndAssign(&programs, opts); err != nil {
		return nil, fmt.Errorf("load socket programs: %w", err)
	}
	return &programs, nil
}

// hook is one place of a cgroup that a program is attached to.
type hook struct {
	name    string // of the program and of its pinned link
	attach  ebpf.AttachType
	program *ebpf.Program
}

func hooks(p *bpf.SocketPrograms) []hook {
	return []hook{
		// Answers first: no socket is translated that could not be told so.
		{bpf.SocketProgSkepGetpeername4, ebpf.AttachCgroupInet4GetPeername, p.SkepGetpeername4},
		{bpf.SocketProgSkepGetpeername6, ebpf.AttachCgroupInet6GetPeername, p.SkepGetpeername6},
		{bpf.SocketProgSkepRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, p.SkepRecvmsg4},
		{bpf.SocketProgSkepRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, p.SkepRecvmsg6},
		{bpf.SocketProgSkepRelease, ebpf.AttachCgroupInetSockRelease, p.SkepRelease},
		{bpf.SocketProgSkepSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, p.SkepSendmsg4},
		{bpf.SocketProgSkepSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, p.SkepSendmsg6},
		{bpf.SocketProgSkepConnect4, ebpf.AttachCGroupInet4Connect, p.SkepConnect4},
		{bpf.SocketProgSkepConnect6, ebpf.AttachCGroupInet6Connect, p.SkepConnect6},
	}
}

// attachAll makes every hook of the cgroup run the given programs over the
// given maps. A pinned link that does already is left alone.
func attachAll(pinDir, cgroup string, programs *bpf.SocketPrograms) error {
	id, err := cgroupID(cgroup)
	if err != nil {
		return err
	}
	for _, h := range hooks(programs) {
		if err := attach(filepath.Join(pinDir, linkPins), cgroup, id, h); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, cgroup, err)
		}
	}
	return nil
}

func attach(dir, cgroup string, cgroupID uint64, h hook) error {
	pin := filepath.Join(dir, h.name)
	pinned, err := link.LoadPinnedLink(pin, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		defer pinned.Close()
		same, err := onCgroup(pinned, cgroupID)
		if err != nil {
			return err
		}
		if same {
			return upgrade(pinned, h.program)
		}
	}
	// No link, or one on a cgroup that is gone. The new pin replaces the old
	// one in one rename; until then the new link lives by its descriptor.
	fresh, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: h.program})
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("another tool's program wants the hook for itself (find it with `bpftool cgroup tree`, detach it or have it attached with BPF_F_ALLOW_MULTI): %w", err)
	}
	if err != nil {
		return err
	}
	defer fresh.Close()
	unfinished := pin + "_next"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := fresh.Pin(unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, pin)
}

func onCgroup(l link.Link, id uint64) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	cgroup := info.Cgroup()
	return cgroup != nil && cgroup.CgroupId == id, nil
}

// upgrade replaces a link's program in place, which no socket call can fall
// between, unless it runs the same code over the same maps.
func upgrade(l link.Link, program *ebpf.Program) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	running, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("open running program: %w", err)
	}
	defer running.Close()
	same, err := sameProgram(running, program)
	if err != nil || same {
		return err
	}
	return l.Update(program)
}

func sameProgram(a, b *ebpf.Program) (bool, error) {
	infoA, err := a.Info()
	if err != nil {
		return false, err
	}
	infoB, err := b.Info()
	if err != nil {
		return false, err
	}
	mapsA, _ := infoA.MapIDs()
	mapsB, _ := infoB.MapIDs()
	slices.Sort(mapsA)
	slices.Sort(mapsB)
	return infoA.Tag == infoB.Tag && slices.Equal(mapsA, mapsB), nil
}

// cgroupID is the number that links name their cgroup by: its inode.
func cgroupID(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", path, err)
	}
	return stat.Ino, nil
}

// Remove detaches every program and removes every pin below a pin folder. It
// succeeds if there is nothing.
func Remove(pinDir string) error {
	links, err := os.ReadDir(filepath.Join(pinDir, linkPins))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pinned links: %w", err)
	}
	var failed []error
	for _, entry := range links {
		pin := filepath.Join(pinDir, linkPins, entry.Name())
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			failed = append(failed, fmt.Errorf("open link %s: %w", pin, err))
			continue
		}
		// Another process may hold the link open: unpinning alone would
		// leave the program attached.
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("detach %s: %w", pin, err))
		}
		l.Close()
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

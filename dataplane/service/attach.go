package service

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
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
		// Hooks for answers first: no socket is translated whose peer could not be translated back.
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
		if err := attach(pinDir, cgroup, id, h); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, cgroup, err)
		}
	}
	return nil
}

func attach(pinDir, cgroup string, cgroupID uint64, h hook) error {
	return pinned.Attach(pinned.LinkPath(pinDir, h.name), h.program, onCgroup(cgroupID), func() (link.Link, error) {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.attach, Program: h.program})
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("another tool's program wants the hook for itself (find it with `bpftool cgroup tree`, detach it or have it attached with BPF_F_ALLOW_MULTI): %w", err)
		}
		return l, err
	})
}

// onCgroup says whether a link is at a cgroup: a recreated cgroup has another id.
func onCgroup(id uint64) func(*link.Info) bool {
	return func(l *link.Info) bool {
		cgroup := l.Cgroup()
		return cgroup != nil && cgroup.CgroupId == id
	}
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
func Remove(pinDir string) error { return pinned.Remove(pinDir) }

package service

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// foreign is another tool's connect program: it allows or denies everything.
func foreign(t *testing.T, verdict int32) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSockAddr,
		AttachType:   ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// attachForeign attaches as older tools do, without a link, and returns how to
// detach.
func attachForeign(t *testing.T, cgroup string, program *ebpf.Program, flags uint32) (detach func(), err error) {
	t.Helper()
	folder, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(folder.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect, Flags: flags,
	})
	return func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(folder.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect,
		}); err != nil {
			t.Error("detach the other tool's program: ", err)
		}
	}, err
}

const (
	allowMulti = 1 << 1 // BPF_F_ALLOW_MULTI
	exclusive  = 0
)

// cilium 27922: another tool's programs on the same hook, before and after ours,
// with a link and without, leave ours attached and working; what they deny is
// their refusal, not ours.
func TestOtherToolsOnTheSameHook(t *testing.T) {
	s := inside(t)
	if s == nil {
		return
	}
	serve(t, TCP, three[0])
	if _, err := attachForeign(t, s.cgroup, foreign(t, 1), allowMulti); err != nil {
		t.Fatal(err)
	}
	p := s.open(t)
	p.SetService(serviceOf("default/web:http", TCP, "10.96.0.1:80", three[0]))
	p.SetService(serviceOf("default/none:http", TCP, "10.96.0.2:80"))
	flush(t, p)
	works := func(when string) {
		t.Helper()
		if from, err := ask("tcp4", "10.96.0.1:80"); err != nil || from != three[0] {
			t.Errorf("%s: answered by %s, %v", when, from, err)
		}
		if _, err := ask("tcp4", "10.96.0.2:80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: without backends: %v, want ECONNREFUSED", when, err)
		}
	}
	works("after one that was there before")
	linked, err := link.AttachCgroup(link.CgroupOptions{Path: s.cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: foreign(t, 1)})
	if err != nil {
		t.Fatal(err)
	}
	works("beside one with a link")
	if _, err := attachForeign(t, s.cgroup, foreign(t, 1), exclusive); !errors.Is(err, unix.EPERM) {
		t.Errorf("one that wants the hook for itself: %v, want EPERM", err)
	}
	detach, err := attachForeign(t, s.cgroup, foreign(t, 0), allowMulti)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask("tcp4", "10.96.0.1:80"); !errors.Is(err, unix.EPERM) {
		t.Errorf("denied by another tool: %v, want its EPERM", err)
	}
	// Skep's program refuses first, and no later one changes the error.
	if _, err := ask("tcp4", "10.96.0.2:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("refused by us, denied by another: %v, want ECONNREFUSED", err)
	}
	p.Close()
	again := s.open(t) // an agent that starts meanwhile
	detach()
	works("after a denying one has left")
	if err := linked.Close(); err != nil {
		t.Fatal(err)
	}
	works("after the linked one has left")
	ours, err := link.LoadPinnedLink(pinned.LinkPath(s.pins, bpf.SocketProgSkepConnect4), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	id, err := cgroupID(s.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := ours.Info(); err != nil || !onCgroup(id)(info) {
		t.Errorf("our link is not on the cgroup: %v", err)
	}
	if n := dump(t, again).Counters["no_backend"]; n == 0 {
		t.Error("our program did not run")
	}
}

func TestHookThatAnotherToolHoldsAloneIsNamed(t *testing.T) {
	s := newStage(t)
	detach, err := attachForeign(t, s.cgroup, foreign(t, 1), exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	p, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup, Limits: testLimits})
	if err == nil {
		p.Close()
		t.Fatal("opened beside a program that wants the hook for itself")
	}
	for _, part := range []string{"skep_connect4", s.cgroup, "bpftool cgroup tree"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

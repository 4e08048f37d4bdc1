package hurts

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

// tool attaches what another tool might: a program that counts connects and lets them through.
func tool(t *testing.T) (counted func() uint64) {
	t.Helper()
	calls, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:       ebpf.CGroupSockAddr,
		AttachType: ebpf.AttachCGroupInet4Connect,
		License:    "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, calls.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	attached, err := link.AttachCgroup(link.CgroupOptions{
		Path: sandbox.Cgroup(), Attach: ebpf.AttachCGroupInet4Connect, Program: program,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		attached.Close()
		program.Close()
		calls.Close()
	})
	return func() uint64 {
		var n uint64
		if err := calls.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// An agent that found other programs at its hooks failed, or detached them, and one that came later pushed its programs out.
// cilium 27922 (and 43877).
func TestAnotherToolsPrograms(t *testing.T) {
	pins := lab.Pins(t)
	before := tool(t)
	p := lab.Open(t, pins)
	after := tool(t)
	lab.Host(t).Serve(t, service.TCP, one)
	set(t, p, lab.Service("default/web:http", service.TCP, webService, one))
	connects := uint64(0)
	step := func(what string, works bool) {
		t.Helper()
		name, err := lab.Ask("tcp4", webService)
		if (err == nil && name == one) != works {
			t.Errorf("%s: answered by %q, %v", what, name, err)
		}
		connects++
		if b, a := before(), after(); b != connects || a != connects {
			t.Errorf("%s: of %d connects the tools saw %d and %d", what, connects, b, a)
		}
	}
	step("beside both", true)
	p.Close()
	step("without the agent", true)
	p = lab.Open(t, pins)
	step("with the next agent", true)
	p.Close()
	if err := service.Remove(pins); err != nil {
		t.Fatal(err)
	}
	step("after Remove", false) // no address of this host: the connect ends at once
}

// A hook that refused with EPERM sent the kernel's NFS client into an endless loop, as it does not expect that error of its own
// connects. Here the kernel connects by itself, too: to an address that an MPTCP server announces. cilium 33395.
func TestKernelsOwnConnects(t *testing.T) {
	p := lab.Open(t, lab.Pins(t))
	host := lab.Host(t)
	set(t, p, lab.Service("default/none:http", service.TCP, webService))
	for name, protocol := range map[string]int{"TCP": unix.IPPROTO_TCP, "MPTCP": unix.IPPROTO_MPTCP} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			t.Fatal(name, err)
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 96, 0, 1}, Port: 80})
		unix.Close(fd)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want ECONNREFUSED", name, err)
		}
	}
	refused := func() uint64 {
		d, err := p.Dump()
		if err != nil {
			t.Fatal(err)
		}
		return d.Counters["no_backend"]
	}
	before := refused()
	lab.AnnounceMPTCP(t, netip.MustParseAddr("10.96.0.1"))
	conn := host.MPTCP(t, "127.0.1.1:80") // the announced address has the same port
	for began := time.Now(); refused() == before; {
		wantAnswer(t, conn, "?") // the kernel announces as it answers
		if time.Since(began) > lab.Deadline {
			t.Fatal("the kernel's own connect did not meet the hook")
		}
	}
	wantAnswer(t, conn, "?")
	// A loop would have gone on meanwhile.
	settled := refused()
	for range 100 {
		wantAnswer(t, conn, "?")
	}
	if again := refused(); again > settled+1 {
		t.Errorf("the kernel connects on and on: refused %d times, then %d", settled-before, again-before)
	}
}

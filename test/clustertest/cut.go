package clustertest

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// Way is a direction, as the server or host that has the fault sees it.
type Way int

const (
	In Way = 1 << iota
	Out
	Both = In | Out
)

// peerPort is where the servers' etcds reach each other.
const peerPort = 2380

// Cut is a server or host that has lost packets until Heal.
type Cut struct{ links []link.Link }

// Heal ends it.
func (c *Cut) Heal() error {
	var errs []error
	for _, l := range c.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// CutServer drops the packets of a server, by programs at its cgroup: servers share one network namespace. With peersOnly they are those
// to and from the other servers.
func CutServer(s *cluster.Server, way Way, peersOnly bool) (*Cut, error) {
	cut, err := cutCgroup(s.CgroupPath(), way, peersOnly)
	if err != nil {
		return nil, fmt.Errorf("cut server %d: %w", s.Number, err)
	}
	return cut, nil
}

func cutCgroup(cgroup string, way Way, peersOnly bool) (*Cut, error) {
	const pass = 1
	drop := asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	if peersOnly {
		drop = nil
		// The two ports are behind an IPv4 header without options. All servers have IPv4 addresses.
		drop = asm.Instructions{
			asm.Mov.Reg(asm.R3, asm.R10),
			asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R2, 20),
			asm.Mov.Imm(asm.R4, 4),
			asm.FnSkbLoadBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
		}
		for _, offset := range []int16{-4, -2} {
			drop = append(drop,
				asm.LoadMem(asm.R1, asm.R10, offset, asm.Half),
				asm.HostTo(asm.BE, asm.R1, asm.Half),
				asm.JEq.Imm(asm.R1, peerPort, "drop"),
			)
		}
		drop = append(drop, asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(), asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"), asm.Return())
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "chaos_cut", Type: ebpf.CGroupSKB, Instructions: drop, License: "GPL"})
	if err != nil {
		return nil, err
	}
	defer program.Close()
	cut := &Cut{}
	for at, hook := range map[Way]ebpf.AttachType{In: ebpf.AttachCGroupInetIngress, Out: ebpf.AttachCGroupInetEgress} {
		if way&at == 0 {
			continue
		}
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: hook, Program: program})
		if err != nil {
			return nil, errors.Join(err, cut.Heal())
		}
		cut.links = append(cut.links, l)
	}
	return cut, nil
}

// CutHost loses a part of the packets of a host, at the bridge's end of its cable: 1 loses all. The host sees a link that is up.
func CutHost(host *cluster.Node, way Way, part float64) (*Cut, error) {
	port, err := netlink.LinkByName(host.Port())
	if err != nil {
		return nil, fmt.Errorf("the port of %s: %w", host.Name, err)
	}
	cut, err := loseAt(port.Attrs().Index, way, part)
	if err != nil {
		return nil, fmt.Errorf("packet loss at %s: %w", host.Name, err)
	}
	return cut, nil
}

// loseAt loses packets at a port, whose other end the ways are those of.
func loseAt(port int, way Way, part float64) (*Cut, error) {
	const next, shot = -1, 2 // TCX_NEXT, TCX_DROP
	limit := int32(min(part*(1<<31), math.MaxInt32))
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "chaos_loss", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.RSh.Imm(asm.R0, 1), // 31 bits, which an immediate has
		asm.JGT.Imm(asm.R0, limit, "next"),
		asm.Mov.Imm(asm.R0, shot),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("next"),
		asm.Return(),
	}})
	if err != nil {
		return nil, err
	}
	defer program.Close()
	cut := &Cut{}
	// What the host sends comes in at the port.
	for at, hook := range map[Way]ebpf.AttachType{Out: ebpf.AttachTCXIngress, In: ebpf.AttachTCXEgress} {
		if way&at == 0 {
			continue
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: port, Program: program, Attach: hook})
		if err != nil {
			return nil, errors.Join(err, cut.Heal())
		}
		cut.links = append(cut.links, l)
	}
	return cut, nil
}

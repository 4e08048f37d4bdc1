package podpath

import (
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// What a program says of a packet (linux/pkt_cls.h).
const (
	VerdictStack    = ^uint32(0) // TC_ACT_UNSPEC
	VerdictDrop     = 2          // TC_ACT_SHOT
	VerdictRedirect = 7          // TC_ACT_REDIRECT
)

// Programs are by the prefix of their counters.
func (p *Path) Programs() map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		"from_pod":    p.programs.SkepFromPod,
		"to_pod":      p.programs.SkepToPod,
		"from_uplink": p.programs.SkepFromUplink,
		"to_uplink":   p.programs.SkepToUplink,
	}
}

// PutReverseFlow writes what XDP remembers of a flow from outside to a backend here.
func (p *Path) PutReverseFlow(client, frontend, backend netip.AddrPort, protocol uint8) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	const reverseScope = 2 // enum flow_scope
	key := bpf.PodFlowKey{Source: endpointToNetwork(client, protocol), Destination: endpointToNetwork(backend, protocol)}
	key.Destination.Scope = reverseScope
	flow := bpf.PodFlow{Peer: endpointToNetwork(frontend, protocol), Used: uint64(now.Nano())}
	return p.maps.ByName[bpf.PodMapSkepFlows].Put(&key, &flow)
}

// NoteOwnPort writes what XDP notes when it brings a flow to a backend in the host's own network.
func (p *Path) NoteOwnPort(port uint16) error {
	var own bpf.PodOwnPorts
	m := p.maps.ByName[bpf.PodMapSkepOwnPorts]
	if err := m.Lookup(uint32(0), &own); err != nil {
		return err
	}
	raw := endpointToNetwork(netip.AddrPortFrom(netip.IPv4Unspecified(), port), 0).Port
	own.Any = 1
	own.Word[raw/64] |= 1 << (raw % 64)
	return m.Put(uint32(0), &own)
}

package podpath

import (
	"errors"
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

// PutReverseFlow writes what XDP remembers of a flow from outside to a backend here, own if that is in the host's own network.
func (p *Path) PutReverseFlow(client, frontend, backend netip.AddrPort, protocol uint8, own bool) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	const reverseScope = 2 // enum flow_scope
	key := bpf.PodFlowKey{Source: endpointToNetwork(client, protocol), Destination: endpointToNetwork(backend, protocol)}
	key.Destination.Scope = reverseScope
	flow := bpf.PodFlow{Peer: endpointToNetwork(frontend, protocol), Used: uint64(now.Nano())}
	var ports bpf.PodFlowPorts
	m := p.maps.ByName[bpf.PodMapSkepFlowPorts]
	if err := m.Lookup(uint32(0), &ports); err != nil {
		return err
	}
	raw := endpointToNetwork(backend, 0).Port
	ports.Answers[raw/64] |= 1 << (raw % 64)
	if own {
		ports.AnyOwn = 1
		ports.Own[raw/64] |= 1 << (raw % 64)
	}
	return errors.Join(m.Put(uint32(0), &ports), p.maps.ByName[bpf.PodMapSkepFlows].Put(&key, &flow))
}

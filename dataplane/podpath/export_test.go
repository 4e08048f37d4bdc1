package podpath

import (
	"errors"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// Verdicts of a program (linux/pkt_cls.h).
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
		"from_other":  p.programs.SkepFromOther,
		"to_uplink":   p.programs.SkepToUplink,
	}
}

// PutReverseFlow writes XDP's entry of a flow from outside to a backend here, own if that is in the host's own network.
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

// FillTraffic leaves no room for another line of traffic.
func (p *Path) FillTraffic() error {
	for i := range p.maps.traffic.MaxEntries() {
		key := bpf.PodEndpoint{Port: uint16(i), Scope: 1 + uint8(i>>16)}
		if err := p.maps.traffic.Put(&key, make([]bpf.PodTraffic, ebpf.MustPossibleCPU())); err != nil {
			return err
		}
	}
	return nil
}

// FillPods leaves no room for another pod's address; empty makes it again.
func (p *Path) FillPods() (empty func() error, err error) {
	var made []bpf.PodAddress
	empty = func() error {
		var failed []error
		for _, key := range made {
			failed = append(failed, p.maps.pods.Delete(key))
		}
		return errors.Join(failed...)
	}
	for i := uint32(1); ; i++ {
		var key bpf.PodAddress
		key.Word[0] = i
		err := p.maps.pods.Put(key, bpf.PodPod{})
		if errors.Is(err, pinned.ErrFull) {
			return empty, nil
		}
		if err != nil {
			return empty, err
		}
		made = append(made, key)
	}
}

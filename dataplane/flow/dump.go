package flow

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// Flow is one entry of the flow table.
type Flow struct {
	Protocol string         `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Frontend netip.AddrPort `json:"frontend"`
	Backend  netip.AddrPort `json:"backend"`
	Scope    string         `json:"scope"`           // external, cluster, or answer for the entry that answers are found by
	Source   netip.AddrPort `json:"source,omitzero"` // the client's address for the backend, if that is translated
	Service  uint32         `json:"service"`
	Node     uint32         `json:"node,omitempty"`
	State    string         `json:"state,omitempty"`
	Idle     time.Duration  `json:"idle"`
}

// The last byte of a key (enum frontend_scope, enum flow_scope); a test dumps flows that the program made.
const (
	scopeExternal = 1
	scopeReverse  = 2
)

// Dump reads the flow table, ordered by client.
func (f *Flows) Dump() ([]Flow, error) {
	entries, err := f.maps.flows.All()
	if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // flows that are made or deleted meanwhile may be missing
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	flows := make([]Flow, 0, len(entries))
	for key, value := range entries {
		flows = append(flows, describe(key, value, now.Nano()))
	}
	slices.SortFunc(flows, func(a, b Flow) int {
		return cmp.Or(a.Client.Compare(b.Client), a.Frontend.Compare(b.Frontend), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.Scope, b.Scope))
	})
	return flows, nil
}

func describe(key bpf.UplinkFlowKey, value bpf.UplinkFlow, now int64) Flow {
	f := Flow{
		Protocol: protocolName(key.Source.Protocol),
		Client:   addrPort(key.Source),
		Frontend: addrPort(key.Destination),
		Backend:  addrPort(value.Peer),
		Scope:    "cluster",
		Service:  value.Service,
		Node:     value.Node,
		State:    state(value.Flags),
		Idle:     time.Duration(max(0, now-int64(value.Used))),
	}
	translated := value.Flags&bpf.UplinkFlowFlagsFLOW_SNAT != 0
	switch key.Destination.Scope {
	case scopeReverse:
		f.Scope = "answer"
		f.Frontend, f.Backend = f.Backend, f.Frontend
		f.Client = addrPort(value.Source)
		if translated {
			f.Source = addrPort(key.Source)
		}
	case scopeExternal:
		f.Scope = "external"
		fallthrough
	default:
		if translated {
			f.Source = addrPort(value.Source)
		}
	}
	return f
}

func state(flags bpf.UplinkFlowFlags) string {
	var words []string
	for _, flag := range []struct {
		bit  bpf.UplinkFlowFlags
		word string
	}{
		{bpf.UplinkFlowFlagsFLOW_LOCAL, "local"},
		{bpf.UplinkFlowFlagsFLOW_SNAT, "snat"},
		{bpf.UplinkFlowFlagsFLOW_ESTABLISHED, "established"},
		{bpf.UplinkFlowFlagsFLOW_CLOSING, "closing"},
	} {
		if flags&flag.bit != 0 {
			words = append(words, flag.word)
		}
	}
	return strings.Join(words, ",")
}

func protocolName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "TCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	case unix.IPPROTO_SCTP:
		return "SCTP"
	}
	return fmt.Sprint(number)
}

func addrPort(e bpf.UplinkEndpoint) netip.AddrPort {
	return netip.AddrPortFrom(bpf.FromNetwork(e.Addr.Word), bpf.SwapPort(e.Port))
}

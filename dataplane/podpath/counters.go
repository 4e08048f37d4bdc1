package podpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// hookLabels name the programs; the index is enum path_hook.
var hookLabels = [bpf.PodPathHookHOOK_COUNT]string{
	bpf.PodPathHookHOOK_FROM_POD:  "from_pod",
	bpf.PodPathHookHOOK_TO_POD:    "to_pod",
	bpf.PodPathHookHOOK_UPLINK:    "from_uplink",
	bpf.PodPathHookHOOK_TO_UPLINK: "to_uplink",
}

// counterLabels name what a program counts; the index is enum path_counter.
var counterLabels = [bpf.PodPathCounterPATH_COUNTER_COUNT]string{
	bpf.PodPathCounterPATH_NOT_IP:                 "not_ip",
	bpf.PodPathCounterPATH_MALFORMED:              "malformed",
	bpf.PodPathCounterPATH_NEIGHBOUR:              "neighbour",
	bpf.PodPathCounterPATH_FORGED:                 "forged",
	bpf.PodPathCounterPATH_STACK:                  "stack",
	bpf.PodPathCounterPATH_HOPS_SPENT:             "hops_spent",
	bpf.PodPathCounterPATH_TOO_BIG:                "too_big",
	bpf.PodPathCounterPATH_NO_ROUTE:               "no_route",
	bpf.PodPathCounterPATH_PEER:                   "peer",
	bpf.PodPathCounterPATH_QUEUE:                  "queue",
	bpf.PodPathCounterPATH_NEIGHBOUR_NODE:         "neighbour_node",
	bpf.PodPathCounterPATH_DIRECT:                 "direct",
	bpf.PodPathCounterPATH_HOST:                   "host",
	bpf.PodPathCounterPATH_DELIVERED:              "delivered",
	bpf.PodPathCounterPATH_RESET:                  "reset",
	bpf.PodPathCounterPATH_UNREACHABLE:            "unreachable",
	bpf.PodPathCounterPATH_UNANSWERED:             "unanswered",
	bpf.PodPathCounterPATH_SCTP_PORT:              "sctp_port",
	bpf.PodPathCounterPATH_COLLISION:              "collision",
	bpf.PodPathCounterPATH_NOT_STORED:             "not_stored",
	bpf.PodPathCounterPATH_NOT_WRITTEN:            "not_written",
	bpf.PodPathCounterPATH_HANDED_OVER:            "handed_over",
	bpf.PodPathCounterPATH_LINK_REFUSED:           "link_refused",
	bpf.PodPathCounterPATH_WRAPPED:                "wrapped",
	bpf.PodPathCounterPATH_WRAPPED_FORGED:         "wrapped_forged",
	bpf.PodPathCounterPATH_EVENT_TRANSLATED:       "event_translated",
	bpf.PodPathCounterPATH_EVENT_NEW_FLOW:         "event_new_flow",
	bpf.PodPathCounterPATH_EVENT_REVERSED:         "event_reversed",
	bpf.PodPathCounterPATH_EVENT_HAIRPIN:          "event_hairpin",
	bpf.PodPathCounterPATH_EVENT_ERROR:            "event_error",
	bpf.PodPathCounterPATH_EVENT_FRAGMENT_UNKNOWN: "event_fragment_unknown",
	bpf.PodPathCounterPATH_EVENT_TRAFFIC_FULL:     "event_traffic_full",
}

// Counters are packets by "program/reason" since the maps were made: each packet counts for one reason, and for its events
// (reasons that begin with "event_").
func (p *Path) Counters() (map[string]uint64, error) {
	all := make(map[string]uint64, len(hookLabels)*len(counterLabels))
	for hook, program := range hookLabels {
		for reason, label := range counterLabels {
			var perCPU []uint64
			index := uint32(hook*len(counterLabels) + reason)
			if err := p.maps.counters.Lookup(index, &perCPU); err != nil {
				return nil, fmt.Errorf("read counter %s/%s: %w", program, label, err)
			}
			var sum uint64
			for _, n := range perCPU {
				sum += n
			}
			all[program+"/"+label] = sum
		}
	}
	return all, nil
}

// Traffic is what one backend on this node received and sent, link headers included.
type Traffic struct {
	Backend                netip.AddrPort
	Protocol               service.Protocol
	ToPackets, ToBytes     uint64
	FromPackets, FromBytes uint64
}

// Traffic returns a line for each backend on this node that ever had a packet.
func (p *Path) Traffic() ([]Traffic, error) {
	var all []Traffic
	var key bpf.PodEndpoint
	var perCPU []bpf.PodTraffic
	entries := p.maps.traffic.Iterate()
	for entries.Next(&key, &perCPU) {
		t := Traffic{Backend: endpointFromNetwork(key), Protocol: service.Protocol(key.Protocol)}
		for _, one := range perCPU {
			t.ToPackets += one.ToPackets
			t.ToBytes += one.ToBytes
			t.FromPackets += one.FromPackets
			t.FromBytes += one.FromBytes
		}
		all = append(all, t)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read backends' traffic: %w", err)
	}
	return all, nil
}

// forgetTraffic deletes the lines of a removed pod, whose address another may get.
func (p *Path) forgetTraffic(addr netip.Addr) error {
	all, err := p.Traffic()
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.Backend.Addr() != addr {
			continue
		}
		key := endpointToNetwork(t.Backend, uint8(t.Protocol))
		if err := p.maps.traffic.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget the traffic of %s: %w", t.Backend, err)
		}
	}
	return nil
}

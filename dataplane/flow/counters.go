package flow

import (
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"

	"github.com/skep-io/skep/bpf"
)

// Reasons returns the names of counters by their index. They come from the enum in the program's own type information, so
// that the two cannot differ: UPLINK_NO_ROUTE is "no_route", UPLINK_EVENT_FLOW_MADE "event_flow_made".
func Reasons() ([]string, error) { return reasons() }

var reasons = sync.OnceValues(func() ([]string, error) {
	spec, err := bpf.LoadUplink()
	if err != nil {
		return nil, err
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("uplink_reason", &enum); err != nil {
		return nil, fmt.Errorf("find the reasons in the program's types: %w", err)
	}
	names := make([]string, bpf.UplinkUplinkReasonUPLINK_REASON_COUNT)
	for _, value := range enum.Values {
		if int(value.Value) < len(names) {
			names[value.Value] = strings.ToLower(strings.TrimPrefix(value.Name, "UPLINK_"))
		}
	}
	return names, nil
})

// Counters returns how many packets left the program for each reason, and how many events of each kind there were, by name.
func (f *Flows) Counters() (map[string]uint64, error) {
	names, err := Reasons()
	if err != nil {
		return nil, err
	}
	counters := make(map[string]uint64, len(names))
	var perCPU []uint64
	for reason, name := range names {
		if err := f.maps.counters.Lookup(uint32(reason), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counters[name] += n
		}
	}
	return counters, nil
}

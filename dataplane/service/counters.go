package service

import (
	"fmt"

	"github.com/skep-io/skep/bpf"
)

// counterLabels names every counter; the index is enum counter.
var counterLabels = [bpf.SocketCounterCOUNTER_COUNT]string{
	bpf.SocketCounterREASON_TRANSLATED:       "translated",
	bpf.SocketCounterREASON_NO_SERVICE:       "no_service",
	bpf.SocketCounterREASON_NO_BACKEND:       "no_backend",
	bpf.SocketCounterREASON_BACKENDS_DOWN:    "backends_down",
	bpf.SocketCounterREASON_BACKEND_MISSING:  "backend_missing",
	bpf.SocketCounterREASON_FAMILY_MISMATCH:  "family_mismatch",
	bpf.SocketCounterREASON_OTHER_PROTOCOL:   "other_protocol",
	bpf.SocketCounterREASON_NO_LOCAL_BACKEND: "no_local_backend",
	bpf.SocketCounterREASON_SOURCE_REFUSED:   "source_refused",
	bpf.SocketCounterREASON_REVERSED:         "reversed",
	bpf.SocketCounterREASON_NOT_REVERSED:     "not_reversed",
	bpf.SocketCounterEVENT_NODE_DOWN_SKIPPED: "node_down_skipped",
	bpf.SocketCounterEVENT_AFFINITY_HIT:      "affinity_hit",
	bpf.SocketCounterEVENT_ORIGIN_STORED:     "origin_stored",
	bpf.SocketCounterEVENT_ORIGIN_LOST:       "origin_lost",
}

func (m *kernelMaps) counters() (map[string]uint64, error) {
	totals := map[string]uint64{}
	for id, label := range counterLabels {
		var perCPU []uint64
		if err := m.byName[bpf.SocketMapSkepCounters].Lookup(uint32(id), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", label, err)
		}
		for _, n := range perCPU {
			totals[label] += n
		}
	}
	return totals, nil
}

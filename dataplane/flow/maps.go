package flow

import (
	"fmt"
	"log/slog"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// layoutVersion is raised whenever the meaning of a pinned map's bytes changes.
const layoutVersion = 2

// kernelMaps gives the maps that the program is loaded over their types.
type kernelMaps struct {
	*pinned.Maps
	flows     pinned.Table[bpf.UplinkFlowKey, bpf.UplinkFlow]
	uplinks   pinned.Table[uint32, bpf.UplinkUplink]
	announced pinned.Table[bpf.UplinkAddress, uint64]
	counters  *ebpf.Map
}

func specFor(limits Limits) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadUplink()
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps[bpf.UplinkMapSkepRecent].MaxEntries *= uint32(cpus)
	for name, limit := range map[string]uint32{
		bpf.UplinkMapSkepFlows:     limits.Flows,
		bpf.UplinkMapSkepFragments: limits.Fragments,
	} {
		if limit != 0 {
			spec.Maps[name].MaxEntries = limit
		}
	}
	return spec, nil
}

func openMaps(dir string, spec *ebpf.CollectionSpec, owner Maps, log *slog.Logger) (*kernelMaps, error) {
	all, err := pinned.OpenMaps(dir, layoutVersion, spec, log, owner)
	if err != nil {
		return nil, err
	}
	m := &kernelMaps{Maps: all, counters: all.ByName[bpf.UplinkMapSkepUplinkCounters]}
	m.flows.Map = all.ByName[bpf.UplinkMapSkepFlows]
	m.uplinks.Map = all.ByName[bpf.UplinkMapSkepUplinks]
	m.announced.Map = all.ByName[bpf.UplinkMapSkepAnnounced]
	return m, nil
}

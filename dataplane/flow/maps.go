package flow

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

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
	macs      pinned.Table[bpf.UplinkMac, uint32]
	firstMACs pinned.Table[uint32, bpf.UplinkMac]
	announced pinned.Table[bpf.UplinkAddress, uint64]
	probeKey  pinned.Table[uint32, bpf.UplinkProbeKey]
	counters  *ebpf.Map
}

func specFor(limits Limits) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadUplink()
	if err != nil {
		return nil, err
	}
	cpus, err := onlineCPUs()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpf.UplinkMapSkepRecent].MaxEntries *= cpus
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

// onlineCPUs is one more than the highest CPU that is online: many more may be possible. One that goes online later has no
// recent flows until the next Open.
func onlineCPUs() (uint32, error) {
	const path = "/sys/devices/system/cpu/online" // such as 0-3,8-11
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	ranges := strings.TrimSpace(string(text))
	last, err := strconv.ParseUint(ranges[strings.LastIndexAny(ranges, ",-")+1:], 10, 16)
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %s has %q", path, ranges)
	}
	return uint32(last) + 1, nil
}

func openMaps(dir string, spec *ebpf.CollectionSpec, owner Maps, log *slog.Logger) (*kernelMaps, error) {
	all, err := pinned.OpenMaps(dir, layoutVersion, spec, log, owner)
	if err != nil {
		return nil, err
	}
	m := &kernelMaps{Maps: all, counters: all.ByName[bpf.UplinkMapSkepUplinkCounters]}
	m.flows.Map = all.ByName[bpf.UplinkMapSkepFlows]
	m.uplinks.Map = all.ByName[bpf.UplinkMapSkepUplinks]
	m.macs.Map = all.ByName[bpf.UplinkMapSkepMacs]
	m.firstMACs.Map = all.ByName[bpf.UplinkMapSkepFirstMacs]
	m.probeKey.Map = all.ByName[bpf.UplinkMapSkepProbeKey]
	m.announced.Map = all.ByName[bpf.UplinkMapSkepAnnounced]
	return m, nil
}

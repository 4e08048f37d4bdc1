package podpath

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// layoutVersion is raised whenever the meaning of a pinned map's bytes changes.
const layoutVersion = 1

const maxRanges = len(bpf.PodPathConfig{}.Ranges)

// kernelMaps gives the maps that this package owns their types.
type kernelMaps struct {
	*pinned.Maps
	pods     pinned.Table[bpf.PodAddress, bpf.PodPod]
	config   pinned.Table[uint32, bpf.PodPathConfig]
	ranges   pinned.Table[bpf.PodRangeKey, bpf.PodRangeOwner]
	overlays pinned.Table[uint32, uint32]
	traffic  *ebpf.Map
	counters *ebpf.Map
}

func openMaps(dir string, spec *ebpf.CollectionSpec, log *slog.Logger, owners ...Maps) (*kernelMaps, error) {
	owners = slices.DeleteFunc(owners, func(o Maps) bool { return o == nil })
	all, err := pinned.OpenMaps(dir, layoutVersion, spec, log, owners...)
	if err != nil {
		return nil, err
	}
	m := &kernelMaps{Maps: all, traffic: all.ByName[bpf.PodMapSkepTraffic], counters: all.ByName[bpf.PodMapSkepPathCounters]}
	m.pods.Map = all.ByName[bpf.PodMapSkepPods]
	m.config.Map = all.ByName[bpf.PodMapSkepPathConfig]
	m.ranges.Map = all.ByName[bpf.PodMapSkepNodeRanges]
	m.overlays.Map = all.ByName[bpf.PodMapSkepPathOverlays]
	return m, nil
}

func toNetwork(addr netip.Addr) bpf.PodAddress { return bpf.PodAddress{Word: bpf.ToNetwork(addr)} }

func endpointToNetwork(at netip.AddrPort, protocol uint8) bpf.PodEndpoint {
	return bpf.PodEndpoint{Addr: toNetwork(at.Addr()), Port: bpf.SwapPort(at.Port()), Protocol: protocol}
}

func endpointFromNetwork(e bpf.PodEndpoint) netip.AddrPort {
	return netip.AddrPortFrom(bpf.FromNetwork(e.Addr.Word), bpf.SwapPort(e.Port))
}

// maskOf is the mask over 16 bytes of a prefix, of which an IPv4 one's begins with the mapping prefix.
func maskOf(p netip.Prefix) bpf.PodAddress {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var bytes [16]byte
	for i := range bits {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	return toNetwork(netip.AddrFrom16(bytes))
}

func configOf(ranges []netip.Prefix, cookie uint64) (bpf.PodPathConfig, error) {
	config := bpf.PodPathConfig{
		Version: bpf.PodPathVersionPATH_VERSION,
		Hooks:   bpf.PodPathHookHOOK_COUNT,
		Netns:   cookie,
	}
	config.Hairpin4.Word = toNetwork(hairpin4).Word
	config.Hairpin6.Word = toNetwork(hairpin6).Word
	return config, setRanges(&config, ranges)
}

func setRanges(config *bpf.PodPathConfig, ranges []netip.Prefix) error {
	if len(ranges) > maxRanges {
		return fmt.Errorf("pod path: %d cluster ranges, at most %d can be held", len(ranges), maxRanges)
	}
	for i := range config.Ranges {
		// Matches the address of all ones only, which no pod has.
		for j := range 4 {
			config.Ranges[i].Base.Word[j], config.Ranges[i].Mask.Word[j] = ^uint32(0), ^uint32(0)
		}
		if i >= len(ranges) {
			continue
		}
		prefix := ranges[i]
		if !prefix.IsValid() {
			return fmt.Errorf("pod path: cluster range %d is no network prefix", i)
		}
		config.Ranges[i].Base.Word = toNetwork(prefix.Masked().Addr()).Word
		config.Ranges[i].Mask.Word = maskOf(prefix).Word
	}
	return nil
}

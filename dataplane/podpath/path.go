// Package podpath runs the programs at pods' interfaces: services by the packet for traffic that passed no socket hook, answers to
// flows that XDP translated, refusal of forged sources, accounting by backend, and the fast path from pod to pod and between nodes
// past the host's upper stack.
//
// It owns the maps skep_pods, skep_node_ranges, skep_traffic and skep_path_*, the programs skep_from_pod, skep_to_pod, skep_from_uplink and
// skep_to_uplink, and where they are attached. Services, flows and addresses are read from the maps of package service and flow. It never makes
// interfaces, addresses or routes: podnet does. It uses no Kubernetes types.
package podpath

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// Maps has kernel maps by their names in C: *service.Plane and *flow.Flows.
type Maps = pinned.Owner

// Options say where the path's pins are and which interfaces and ranges it serves.
type Options struct {
	PinDir       string         // on a BPF filesystem, not shared with another package; made if absent
	Plane        Maps           // services
	Flows        Maps           // flows that XDP shares; nil: the path keeps its own
	Uplinks      []string       // interfaces that other nodes' and outside packets arrive at, a VXLAN device included; the first leads outside
	Others       []string       // interfaces at which no packet of a pod or of a node may arrive
	ClusterCIDRs []netip.Prefix // all pods of the cluster; at most 8
	Clsact       bool           // attach by clsact qdiscs also where the kernel has tcx
	Logger       *slog.Logger   // nil: slog.Default()
}

// The source that a pod sees on its packets to itself through a service. The IPv4 one is a pod's next hop (see podnet); no
// host has either.
var (
	hairpin4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	hairpin6 = netip.MustParseAddr("fd73:6b65:7000::1")
)

// Path is this node's fast path. Its methods may be called concurrently.
//
// Open, Attach, Detach and SetUplinks must run in the network namespace that the interfaces are in.
type Path struct {
	options  Options
	log      *slog.Logger
	lock     *os.File
	maps     *kernelMaps
	programs bpf.PodPrograms
	hook     attacher

	mu     sync.Mutex
	pods   map[int][]netip.Addr // by index of the host's interface
	others map[int]bool         // by index: those that this process has configured
}

// Open adopts what is pinned in o.PinDir, replaces programs in place where they differ, repairs what is missing at interfaces
// that still exist, and forgets those that do not. Pods keep working meanwhile.
func Open(o Options) (*Path, error) {
	if o.Plane == nil {
		return nil, errors.New("pod path: the service maps are missing")
	}
	lock, err := pinned.Lock(o.PinDir)
	if err != nil {
		return nil, err
	}
	p := &Path{options: o, log: o.Logger, lock: lock, pods: map[int][]netip.Addr{}, others: map[int]bool{}}
	if p.log == nil {
		p.log = slog.Default()
	}
	if err := p.start(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Path) start() error {
	spec, err := bpf.LoadPod()
	if err != nil {
		return err
	}
	maps, err := openMaps(p.options.PinDir, spec, p.log, p.options.Plane, p.options.Flows)
	if err != nil {
		return err
	}
	p.maps = maps
	if err := spec.LoadAndAssign(&p.programs, &ebpf.CollectionOptions{MapReplacements: maps.ByName}); err != nil {
		return fmt.Errorf("load the programs at pods' interfaces: %w", err)
	}
	if p.hook, err = newAttacher(p.options); err != nil {
		return err
	}
	p.log.Info("programs at pods' interfaces", "attached by", p.hook.name())
	stale, err := p.configure(maps.Pinned(bpf.PodMapSkepPods))
	if err != nil {
		return err
	}
	if err := p.adopt(stale); err != nil {
		return err
	}
	if err := p.SetUplinks(p.options.Uplinks, p.options.Others); err != nil {
		return err
	}
	return maps.Pin()
}

// configure writes the programs' configuration. stale: the pods in the maps are of another network namespace, in which the
// indexes of their interfaces mean something else.
func (p *Path) configure(adopted bool) (stale bool, err error) {
	cookie, err := namespaceCookie()
	if err != nil {
		return false, err
	}
	before, _, err := p.maps.config.Get(0)
	if err != nil {
		return false, err
	}
	config, err := configOf(p.options.ClusterCIDRs, cookie)
	if err != nil {
		return false, err
	}
	config.Uplink, config.UplinkMac = before.Uplink, before.UplinkMac
	if p.maps.Pinned(bpf.PodMapSkepNodeRanges) {
		config.NodesKnown = before.NodesKnown
	}
	return adopted && before.Netns != cookie, p.maps.config.Put(0, config)
}

// SetClusterCIDRs takes over the ranges of all pods of the cluster, to which some were added.
func (p *Path) SetClusterCIDRs(ranges []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	config, _, err := p.maps.config.Get(0)
	if err != nil {
		return err
	}
	if err := setRanges(&config, ranges); err != nil {
		return err
	}
	return p.maps.config.Put(0, config)
}

// Close releases the process's handles. Programs, maps and their pins stay.
func (p *Path) Close() error {
	var err error
	if p.maps != nil {
		err = p.maps.Close()
	}
	return errors.Join(err, p.programs.Close(), p.lock.Close())
}

// Package flow runs the XDP program at a node's uplinks, which forwards packets from outside to the backends of node ports,
// external and load-balancer addresses, answers ARP and NDP for the addresses that this node announces, and answers the probes of
// other nodes.
//
// It owns the maps of flows and fragments, which the programs at pods' interfaces share, the maps skep_uplinks, skep_macs, skep_first_macs,
// skep_recent, skep_tunnel_pairs, skep_hops, skep_path_mtu, skep_answers, skep_announced, skep_probe_key and skep_uplink_counters, the
// program skep_uplink, and where it is attached. Services, nodes and addresses are read from the maps of package service. It never changes interfaces, addresses or routes and uses no
// Kubernetes types.
package flow

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

// Maps has kernel maps by their names in C: *service.Plane.
type Maps = pinned.Owner

// Limits are the sizes of maps; 0: the C program's default.
type Limits struct {
	Flows     uint32 // a flow to a backend here has two entries
	Fragments uint32
}

// Options say where the flows' pins are and at which interfaces the program runs.
type Options struct {
	PinDir     string       // on a BPF filesystem, not shared with another package; made if absent
	Plane      Maps         // services
	Uplinks    []string     // interfaces that packets from outside arrive at; see SetUplinks
	Overlays   []string     // by which pods of other nodes are reached; see SetOverlays
	NodeIPs    []netip.Addr // this node's address, of each family: the source of what is encapsulated or translated
	GenericXDP bool         // do not try the driver's own XDP
	Limits     Limits
	Logger     *slog.Logger // nil: slog.Default()
}

// Flows is the program at this node's uplinks. Its methods may be called concurrently.
//
// Open and SetUplinks must run in the network namespace that the uplinks are in.
type Flows struct {
	options   Options
	log       *slog.Logger
	lock      *os.File
	maps      *kernelMaps
	program   *ebpf.Program
	record    bpf.UplinkUplink // of every uplink, without its link address
	announcer *announcer
	once      sync.Once

	mu       sync.Mutex
	uplinks  []uplink // those that run the program
	states   []Uplink
	overlays map[int]bool // indexes
}

// Open adopts what is pinned in o.PinDir, so that flows go on, and makes every uplink run this build's program: in place if
// one runs there already, so that no packet passes without a program. An uplink that refuses is no error: see Uplinks.
func Open(o Options) (*Flows, error) {
	if o.Plane == nil {
		return nil, errors.New("flows: the service maps are missing")
	}
	lock, err := pinned.Lock(o.PinDir)
	if err != nil {
		return nil, err
	}
	f := &Flows{options: o, log: o.Logger, lock: lock}
	if f.log == nil {
		f.log = slog.Default()
	}
	if err := f.start(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Flows) start() (err error) {
	if f.record, err = recordOf(f.options); err != nil {
		return err
	}
	spec, err := specFor(f.options.Limits)
	if err != nil {
		return err
	}
	if f.maps, err = openMaps(f.options.PinDir, spec, f.options.Plane, f.log); err != nil {
		return err
	}
	var programs bpf.UplinkPrograms
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: f.maps.ByName}); err != nil {
		return fmt.Errorf("load the program for uplinks: %w", err)
	}
	f.program = programs.SkepUplink
	if f.announcer, err = newAnnouncer(f.log, f.maps.announced); err != nil {
		return err
	}
	if err := f.SetOverlays(f.options.Overlays); err != nil { // first, or the earlier ones would be missing for a moment
		return err
	}
	if err := f.SetUplinks(f.options.Uplinks); err != nil {
		return err
	}
	return f.maps.Pin()
}

// Maps returns the maps that this package owns by their names in C.
func (f *Flows) Maps() map[string]*ebpf.Map { return f.maps.Own() }

// Close ends announcing and releases the process's handles. Program, maps and their pins stay; announced addresses are
// answered for until their deadlines.
func (f *Flows) Close() error {
	var err error
	f.once.Do(func() {
		if f.announcer != nil {
			err = f.announcer.close()
		}
		err = errors.Join(err, f.program.Close()) // links hold it
		if f.maps != nil {
			err = errors.Join(err, f.maps.Close())
		}
		err = errors.Join(err, f.lock.Close())
	})
	return err
}

// Remove detaches the program everywhere and removes every pin below a pin folder. It succeeds if there is nothing.
func Remove(pinDir string) error { return pinned.Remove(pinDir) }

package sockets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// Method is the way in which sockets are found and closed.
type Method uint8

const (
	// Automatic is Iterators where the kernel has them, else SockDiag.
	Automatic Method = iota
	// Iterators walk a namespace's sockets in the kernel and close on the way
	// (bpf_sock_destroy, Linux 6.5).
	Iterators
	// SockDiag lists a namespace's sockets over netlink and closes them one by
	// one (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY).
	SockDiag
)

func (m Method) String() string {
	switch m {
	case Automatic:
		return "automatic"
	case Iterators:
		return "bpf_sock_destroy"
	case SockDiag:
		return "sock_diag"
	}
	return fmt.Sprintf("method %d", uint8(m))
}

// Options say which sockets are closed.
type Options struct {
	Plane *service.Plane
	// CgroupPath is the cgroup that the Plane's programs are attached to:
	// sockets of other cgroups never went through a service. "": any cgroup.
	CgroupPath string
	// Namespaces lists the paths of the network namespaces to sweep besides this
	// process's own. Missing paths are skipped. nil: none. The processes that have
	// their sockets have to be in this process's /proc.
	Namespaces func() []string
	Method     Method
	Logger     *slog.Logger // nil: slog.Default
}

// Target is an endpoint that may have stale sockets. An IPv4-mapped IPv6 address
// is the same as the IPv4 address.
type Target struct {
	Addr     netip.Addr
	Port     uint16
	Protocol service.Protocol // TCP or UDP
	// Connecting: the backend may still answer its open connections (it drains,
	// or was only removed from a service). TCP sockets are closed only if they
	// wait for its first answer.
	Connecting bool
}

// downNodes stands for all backends whose node is down.
func downNodes(protocol service.Protocol) Target { return Target{Protocol: protocol} }

func (t Target) String() string {
	if !t.Addr.IsValid() {
		return fmt.Sprintf("nodes that are down/%s", t.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(t.Addr, t.Port), t.Protocol)
}

// Result counts the sockets that were connected to the targets.
type Result struct {
	Closed  uint64 // their service no longer leads there
	Served  uint64 // left open: what they asked for leads to the target again, or still
	Direct  uint64 // left open: they asked for the target's own address
	Alive   uint64 // left open: the target has answered them and may still do
	Refused uint64 // to be closed, but the kernel would not
}

func (r *Result) add(other Result) {
	r.Closed += other.Closed
	r.Served += other.Served
	r.Direct += other.Direct
	r.Alive += other.Alive
	r.Refused += other.Refused
}

// count enters sockets of one verdict.
func (r *Result) count(verdict bpf.SocketsVerdict, sockets uint64) {
	switch verdict {
	case bpf.SocketsVerdictVERDICT_STALE:
		r.Closed += sockets
	case bpf.SocketsVerdictVERDICT_SERVED:
		r.Served += sockets
	case bpf.SocketsVerdictVERDICT_DIRECT, bpf.SocketsVerdictVERDICT_OUTSIDE:
		r.Direct += sockets
	case bpf.SocketsVerdictVERDICT_ALIVE:
		r.Alive += sockets
	case bpf.SocketsVerdictVERDICT_REFUSED:
		r.Refused += sockets
	}
}

// closer checks the sockets of the calling thread's network namespace and closes
// the stale ones on a target. Targets are marked.
type closer interface {
	close(ctx context.Context, targets []Target) (Result, error)
	marked() *marks
	Close() error
}

// Sweeper closes sockets. Its methods may be called from any goroutine.
type Sweeper struct {
	options Options
	log     *slog.Logger
	method  Method
	host    *os.File // the network namespace of this process

	sweeping sync.Mutex // one sweep at a time: they share the map of targets
	closer   closer

	nodeDown chan struct{} // of capacity 1

	mu    sync.Mutex
	total Result
}

// New prepares to close sockets. The Plane must stay open until Close.
func New(o Options) (*Sweeper, error) {
	s := &Sweeper{options: o, log: o.Logger, nodeDown: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.Default()
	}
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open this process's network namespace: %w", err)
	}
	s.host = host
	if err := s.choose(); err != nil {
		host.Close()
		return nil, err
	}
	s.log.Info("sockets to removed backends are closed", "with", s.method.String())
	return s, nil
}

func (s *Sweeper) choose() error {
	var failed error
	if s.options.Method != SockDiag {
		s.closer, failed = newWalker(s.options)
		if failed == nil {
			s.method = Iterators
			return nil
		}
		failed = fmt.Errorf("load socket iterators (Linux 6.5 or later is needed): %w", failed)
		if s.options.Method == Iterators {
			return failed
		}
	}
	diag, err := newDiag(s.options)
	if err != nil {
		return errors.Join(failed, err)
	}
	s.closer, s.method = diag, SockDiag
	return nil
}

// Method is the way in which this Sweeper works, never Automatic.
func (s *Sweeper) Method() Method { return s.method }

// Sweep walks every namespace once and closes the stale sockets on the targets. A
// socket whose connect runs during the call may be missed: Run sweeps twice.
func (s *Sweeper) Sweep(ctx context.Context, targets []Target) (Result, error) {
	targets, err := normalise(targets)
	if err != nil || len(targets) == 0 {
		return Result{}, err
	}
	return s.sweep(ctx, targets)
}

// SweepDownNodes closes the sockets whose backend is on a node that the Plane's
// maps say is down.
func (s *Sweeper) SweepDownNodes(ctx context.Context) (Result, error) {
	return s.sweep(ctx, []Target{downNodes(service.TCP), downNodes(service.UDP)})
}

// normalise drops duplicates. Of an endpoint that is given with and without
// Connecting all stale sockets are closed.
func normalise(targets []Target) ([]Target, error) {
	at := map[Target]int{}
	var unique []Target
	for _, t := range targets {
		t.Addr = t.Addr.Unmap().WithZone("")
		if !t.Addr.IsValid() || t.Addr.IsUnspecified() || t.Port == 0 {
			return nil, fmt.Errorf("close sockets connected to %v port %d: needs an address and a port", t.Addr, t.Port)
		}
		if t.Protocol != service.TCP && t.Protocol != service.UDP {
			return nil, fmt.Errorf("close sockets connected to %s: only TCP and UDP sockets can be closed", t)
		}
		key := t.endpoint()
		if i, twice := at[key]; twice {
			unique[i].Connecting = unique[i].Connecting && t.Connecting
			continue
		}
		at[key] = len(unique)
		unique = append(unique, t)
	}
	return unique, nil
}

// endpoint is the target without Connecting.
func (t Target) endpoint() Target {
	t.Connecting = false
	return t
}

func (s *Sweeper) sweep(ctx context.Context, targets []Target) (Result, error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	var all Result
	var failed error
	for rest := targets; len(rest) > 0 && failed == nil; {
		batch := rest[:min(len(rest), s.closer.marked().room())]
		rest = rest[len(batch):]
		failed = s.sweepBatch(ctx, batch, &all)
	}
	s.mu.Lock()
	s.total.add(all)
	s.mu.Unlock()
	if all.Closed+all.Refused > 0 {
		s.log.Info("closed sockets that were still connected to removed backends", "closed", all.Closed,
			"refused", all.Refused, "left", all.Served+all.Direct+all.Alive, "backends", describe(targets))
	}
	return all, failed
}

// sweepBatch marks as many targets as there is room for, finds the namespaces
// that matter, and checks their sockets. The host's is always one of them:
// sockets of the kernel's own are no process's file.
func (s *Sweeper) sweepBatch(ctx context.Context, targets []Target, all *Result) (err error) {
	marks := s.closer.marked()
	defer func() { err = errors.Join(err, marks.unmark(targets, all)) }()
	if err := marks.mark(targets); err != nil {
		return err
	}
	matter, err := marks.namespaces()
	if err != nil {
		return err
	}
	var paths []string
	if len(matter) > 0 && s.options.Namespaces != nil {
		paths = s.options.Namespaces()
	}
	return eachNamespace(ctx, s.host, paths, matter, func() error {
		result, err := s.closer.close(ctx, targets)
		all.add(result)
		return err
	})
}

// describe names some of the targets, for the log.
func describe(targets []Target) string {
	const most = 5
	var names []string
	for _, t := range targets[:min(len(targets), most)] {
		names = append(names, t.String())
	}
	if len(targets) > most {
		names = append(names, fmt.Sprintf("and %d more", len(targets)-most))
	}
	return strings.Join(names, ", ")
}

// Totals counts all sockets that were checked since New.
func (s *Sweeper) Totals() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Close frees what New loaded. No Sweep or Run may be running.
func (s *Sweeper) Close() error {
	return errors.Join(s.closer.Close(), s.host.Close())
}

// load reads the programs over the Plane's maps.
func load(o Options, objects any) error {
	spec, err := bpf.LoadSockets()
	if err != nil {
		return err
	}
	if o.CgroupPath != "" {
		id, err := cgroupID(o.CgroupPath)
		if err != nil {
			return err
		}
		if err := spec.Variables[bpf.SocketsVarSkepHookedCgroup].Set(id); err != nil {
			return err
		}
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range o.Plane.Maps() {
		if mapSpec := spec.Maps[name]; mapSpec != nil {
			mapSpec.MaxEntries = m.MaxEntries()
			shared[name] = m
		}
	}
	return spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: shared})
}

package census

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

const (
	// fresh is how long a count is reused: scrapers and users that ask at the same
	// time share a walk.
	fresh = time.Second
	// correction is how often the counts of least connections are corrected: flows
	// that end without a packet count for that much longer.
	correction = 5 * time.Second
)

// Options say which connections are counted.
type Options struct {
	Plane *service.Plane
	// Flows has the map skep_flows; nil: there are no flows.
	Flows interface{ Maps() map[string]*ebpf.Map }
	// CgroupPath is the cgroup that the Plane's programs are attached to:
	// sockets of other cgroups asked for no service. "": any cgroup.
	CgroupPath string
	Logger     *slog.Logger // nil: slog.Default
}

// Key is a backend of a service. An address may be a backend of several.
type Key struct {
	Service  uint32 // id, as in service.Dump
	Backend  netip.AddrPort
	Protocol service.Protocol
}

// Connected is what one backend has.
type Connected struct {
	Sockets uint32 // of this node, open or opening
	// Flows are connections from outside, or of pods that bypass this node's
	// socket hooks. Each is counted by one node of the cluster only.
	Flows uint32
	// Weighed are all flows that pass this node, opening ones too.
	Weighed uint32
	// RoundTrip is the mean of those TCP sockets that have one, of which there
	// are Timed.
	RoundTrip time.Duration
	Timed     uint32
}

// Census counts. Its methods may be called concurrently.
type Census struct {
	options Options
	log     *slog.Logger
	objects objects
	sockets *link.Iter
	failed  link.Link

	mu      sync.Mutex // one walk at a time: they share the maps
	counted map[Key]Connected
	at      time.Time
}

type objects struct {
	Connected *ebpf.Map     `ebpf:"skep_connected"`
	Seen      *ebpf.Map     `ebpf:"skep_seen"`
	Sockets   *ebpf.Program `ebpf:"skep_count_sockets"`
	Flows     *ebpf.Program `ebpf:"skep_count_flows"`
	Failed    *ebpf.Program `ebpf:"skep_socket_failed"`
}

// New prepares to count, and lets the kernel count connections of sockets that
// fail from now on. The Plane and Flows must stay open until Close.
func New(o Options) (*Census, error) {
	c := &Census{options: o, log: o.Logger}
	if c.log == nil {
		c.log = slog.Default()
	}
	if err := c.start(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Census) start() error {
	if err := c.load(); err != nil {
		return fmt.Errorf("load the programs that count connections: %w", err)
	}
	var err error
	if c.sockets, err = link.AttachIter(link.IterOptions{Program: c.objects.Sockets}); err != nil {
		return fmt.Errorf("walk over open files: %w", err)
	}
	if c.failed, err = link.AttachTracing(link.TracingOptions{Program: c.objects.Failed}); err != nil {
		return fmt.Errorf("follow the kernel's reports of socket errors (tracepoint inet_sk_error_report): %w", err)
	}
	return nil
}

// load reads the programs over the maps of their owners.
func (c *Census) load() error {
	spec, err := bpf.LoadCensus()
	if err != nil {
		return err
	}
	if c.options.CgroupPath != "" {
		info, err := os.Stat(c.options.CgroupPath)
		if err != nil {
			return err
		}
		// The kernel's number of a cgroup is its inode.
		if err := spec.Variables[bpf.CensusVarSkepHookedCgroup].Set(info.Sys().(*syscall.Stat_t).Ino); err != nil {
			return err
		}
	}
	owned := c.options.Plane.Maps()
	if c.options.Flows != nil {
		owned[bpf.CensusMapSkepFlows] = c.options.Flows.Maps()[bpf.CensusMapSkepFlows]
	} else {
		spec.Maps[bpf.CensusMapSkepFlows].MaxEntries = 1 // empty, and stays so
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range owned {
		if mapSpec := spec.Maps[name]; mapSpec != nil {
			mapSpec.MaxEntries = m.MaxEntries()
			shared[name] = m
		}
	}
	return spec.LoadAndAssign(&c.objects, &ebpf.CollectionOptions{MapReplacements: shared})
}

// Count returns what is connected to each backend that has anything, as it was
// within the last second.
func (c *Census) Count() (map[Key]Connected, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counted != nil && time.Since(c.at) < fresh {
		return c.counted, nil
	}
	return c.count()
}

// CountNow is Count without an earlier result.
func (c *Census) CountNow() (map[Key]Connected, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count()
}

// CountFlows is CountNow without sockets.
func (c *Census) CountFlows() (map[Key]Connected, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.walkFlows(); err != nil {
		return nil, err
	}
	return c.drainCounts()
}

func (c *Census) count() (map[Key]Connected, error) {
	if err := c.walkSockets(); err != nil {
		return nil, err
	}
	if err := c.walkFlows(); err != nil {
		return nil, err
	}
	counted, err := c.drainCounts()
	if err != nil {
		return nil, err
	}
	c.counted, c.at = counted, time.Now()
	return counted, nil
}

// Run corrects the counts of least connections until ctx ends: it removes flows
// whose end no program saw, or which the kernel evicted. It walks only while a
// service selects that way.
func (c *Census) Run(ctx context.Context) {
	ticks := time.NewTicker(correction)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			if err := c.Correct(); err != nil {
				c.log.Error("least connections weighs flows that may have ended", "err", err)
			}
		}
	}
}

// Correct does once what Run does.
func (c *Census) Correct() error {
	return c.options.Plane.CorrectFlows(func() (func(service.Endpoint) uint32, error) {
		counted, err := c.CountFlows()
		return func(e service.Endpoint) uint32 {
			return counted[Key{e.Service, netip.AddrPortFrom(e.Addr, e.Port), e.Protocol}].Weighed
		}, err
	})
}

// Close stops counting failures and frees what New loaded. No other call may be
// running.
func (c *Census) Close() error {
	var failed []error
	if c.failed != nil {
		failed = append(failed, c.failed.Close())
	}
	if c.sockets != nil {
		failed = append(failed, c.sockets.Close())
	}
	o := c.objects
	return errors.Join(append(failed, o.Connected.Close(), o.Seen.Close(), o.Sockets.Close(), o.Flows.Close(), o.Failed.Close())...)
}

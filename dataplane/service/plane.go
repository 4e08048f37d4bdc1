package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// Options say where the data plane's pins and cgroup are.
type Options struct {
	PinDir     string // on a BPF filesystem; made if absent
	CgroupPath string // cgroup v2 folder whose sockets are translated
	Limits     Limits
	Node       string       // this node: backends with that Node are local
	Logger     *slog.Logger // nil: slog.Default
}

// Plane holds the desired state and keeps the kernel equal to it. Its methods
// may be called from any goroutine and return without waiting for the kernel,
// but for WithdrawAddress and Flush.
type Plane struct {
	options Options
	log     *slog.Logger
	lock    *os.File
	maps    *kernelMaps
	spec    *ebpf.CollectionSpec

	mu      sync.Mutex
	tables  *tables
	full    map[string]Problem // services that a map has no room for
	trouble trouble
	queue   queue
	synced  bool
	lastErr error
	changed chan struct{} // closed and replaced when settled or lastErr changes
	wake    chan struct{} // of capacity 1: the reconciler has work

	gone *departures
	stop context.CancelFunc
	done sync.WaitGroup
	once sync.Once
}

// Open adopts what is pinned in o.PinDir, or starts fresh, and attaches the
// programs to o.CgroupPath. What an earlier process installed keeps working
// meanwhile; nothing is removed before Synced.
func Open(o Options) (*Plane, error) {
	return open(o, func(m *kernelMaps) writer { return m })
}

// open lets tests inject faults between the reconciler and the maps.
func open(o Options, writerOf func(*kernelMaps) writer) (*Plane, error) {
	if err := probe(o); err != nil {
		return nil, err
	}
	lock, err := pinned.Lock(o.PinDir)
	if err != nil {
		return nil, err
	}
	p := &Plane{
		options: o,
		log:     o.Logger,
		lock:    lock,
		tables:  newTables(o.Node),
		full:    map[string]Problem{},
		trouble: newTrouble(),
		changed: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		gone:    newDepartures(),
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	if err := p.start(writerOf); err != nil {
		if p.maps != nil {
			p.maps.Close()
		}
		lock.Close()
		return nil, err
	}
	return p, nil
}

func (p *Plane) start(writerOf func(*kernelMaps) writer) error {
	spec, err := specFor(&p.options.Limits)
	if err != nil {
		return err
	}
	p.spec = spec
	var pending bool // new maps have to be filled before anything uses them
	p.maps, err = loadPinned(filepath.Join(p.options.PinDir, currentPins), spec, false)
	switch {
	case err == nil:
	case errors.Is(err, pinned.ErrLayout):
		p.log.Info("pinned maps are replaced when the services are known", "err", err)
		pending = true
		fallthrough
	case errors.Is(err, fs.ErrNotExist):
		p.maps, err = createPinned(filepath.Join(p.options.PinDir, nextPins), spec)
		if err != nil {
			return err
		}
	default:
		return err
	}
	netns, err := hostNetns()
	if err != nil {
		return err
	}
	if err := p.maps.config.Put(0, bpf.SocketConfig{HostNetns: netns}); err != nil {
		return err
	}
	in := newInstalled(writerOf(p.maps), p.options.Limits, p.maps.frontends.home)
	if err := in.adopt(p.maps); err != nil {
		return fmt.Errorf("adopt pinned maps: %w", err)
	}
	if !pending {
		if err := p.activate(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	in.notify = func(d Departure) { p.gone.notify(ctx, d) }
	r := &reconciler{
		plane:   p,
		in:      in,
		pending: pending,
		retired: make(chan *retired, 1),
		freed:   make(chan *retired, 1),
	}
	p.done.Go(func() { r.run(ctx) })
	p.done.Go(func() { p.gone.run(ctx) })
	p.done.Go(func() { graceLoop(ctx, r.retired, r.freed) })
	return nil
}

// activate makes the programs read p.maps, then makes those the maps that a later
// process adopts. In the other order a crash in between would leave programs on
// maps that are no longer written; in this one the next process fills new maps
// again.
func (p *Plane) activate() error {
	programs, err := loadPrograms(p.spec, p.maps)
	if err != nil {
		return err
	}
	defer programs.Close() // links hold them
	if err := attachAll(p.options.PinDir, p.options.CgroupPath, programs); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(p.options.PinDir, nextPins)); err != nil {
		return nil
	}
	if adopted, err := p.currentIsOurs(); err != nil {
		return err
	} else if adopted { // an earlier process ended before promoting its own
		return os.RemoveAll(filepath.Join(p.options.PinDir, nextPins))
	}
	return pinned.ReplaceFolder(filepath.Join(p.options.PinDir, nextPins), filepath.Join(p.options.PinDir, currentPins))
}

func (p *Plane) currentIsOurs() (bool, error) {
	current, err := ebpf.LoadPinnedMap(filepath.Join(p.options.PinDir, currentPins, bpf.SocketMapSkepLayout), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer current.Close()
	theirs, err := current.Info()
	if err != nil {
		return false, err
	}
	ours, err := p.maps.layout.Map.Info()
	if err != nil {
		return false, err
	}
	theirID, _ := theirs.ID()
	ourID, _ := ours.ID()
	return theirID == ourID, nil
}

// SetService makes s the desired state of the service of that name.
func (p *Plane) SetService(s Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enqueue(false, p.tables.set(s)...)
	p.review(s.Name)
}

// DeleteService makes the service of that name absent.
func (p *Plane) DeleteService(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enqueue(false, p.tables.delete(name)...)
	p.review(name)
}

// Synced says that all services that exist have been set: from now on what is
// installed without being desired is removed.
func (p *Plane) Synced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = true
	p.queue.sweep, p.queue.hosts = true, true
	p.touch()
}

// WithdrawAddress removes all backends at an address from every service before
// their services are set without them, and returns when the maps say so or a
// write failed, in which case it is retried. restored undoes the withdrawal.
func (p *Plane) WithdrawAddress(addr netip.Addr) (restored func()) {
	addr = addr.Unmap()
	p.mu.Lock()
	p.enqueue(true, p.tables.withdraw(addr, 1)...)
	target := p.queue.generation
	p.mu.Unlock()
	p.awaitUrgent(target)
	var once atomic.Bool
	return func() {
		if once.Swap(true) {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.enqueue(true, p.tables.withdraw(addr, -1)...)
	}
}

// awaitUrgent waits until the urgent work of a generation has been tried once.
func (p *Plane) awaitUrgent(target uint64) {
	for {
		p.mu.Lock()
		done := p.queue.tried >= target || p.queue.closed
		changed := p.changed
		p.mu.Unlock()
		if done {
			return
		}
		<-changed
	}
}

// SetNodeDown drops a node's backends from, or restores them to, every service
// in one write.
func (p *Plane) SetNodeDown(name string, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name = storedName(name)
	if down {
		p.tables.nodesDown[name] = struct{}{}
	} else {
		delete(p.tables.nodesDown, name)
	}
	p.queue.addNode(name)
	p.touch()
}

// Maps gives every map by its C name, for programs of other packages that read
// the same tables (ebpf.CollectionOptions.MapReplacements). This package remains
// their owner: nothing else writes or closes them. While maps of another layout
// are being filled, the ones given are the new ones.
func (p *Plane) Maps() map[string]*ebpf.Map { return maps.Clone(p.maps.byName) }

// Flush waits until the maps equal the desired state at the time of the call.
func (p *Plane) Flush(ctx context.Context) error {
	p.mu.Lock()
	target := p.queue.generation
	p.mu.Unlock()
	for {
		p.mu.Lock()
		settled, closed := p.queue.settled >= target, p.queue.closed
		err, changed := p.lastErr, p.changed
		p.mu.Unlock()
		if settled {
			return nil
		}
		if closed {
			return errors.New("data plane was closed before its maps were up to date")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("maps are not up to date: %w", ctx.Err()), err)
		}
	}
}

// Close stops writing. The maps, the programs and their links stay.
func (p *Plane) Close() error {
	var err error
	p.once.Do(func() {
		p.stop()
		p.done.Wait()
		p.mu.Lock()
		p.queue.closed = true
		p.broadcast()
		p.mu.Unlock()
		err = errors.Join(p.maps.Close(), p.lock.Close())
	})
	return err
}

func (p *Plane) enqueue(urgent bool, names ...string) {
	p.queue.add(urgent, names...)
	p.touch()
}

// touch begins a new generation of the desired state.
func (p *Plane) touch() {
	p.queue.generation++
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Plane) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/pinned"
)

// A new owner is announced to neighbours at once, and again, since announcements are not acknowledged.
const (
	notifications     = 4
	notificationPause = time.Second
)

// announcer keeps skep_announced equal to what is asked for and announces to neighbours an address that is new here.
type announcer struct {
	log       *slog.Logger
	announced pinned.Table[bpf.UplinkAddress, uint64]
	socket    *neighbourSocket

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup

	mu        sync.Mutex
	uplinks   []uplink
	notifying map[netip.Addr]context.CancelFunc
}

func newAnnouncer(log *slog.Logger, announced pinned.Table[bpf.UplinkAddress, uint64]) (*announcer, error) {
	socket, err := openNeighbourSocket()
	if err != nil {
		return nil, err
	}
	a := &announcer{log: log, announced: announced, socket: socket, notifying: map[netip.Addr]context.CancelFunc{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a, nil
}

// Announce makes this node the one that answers ARP and NDP for the given addresses, each until its time, and for no others.
// Those that are new are announced to neighbours. Call it again before the times to go on; a node that cannot stops answering by
// itself, so that another may take over.
func (f *Flows) Announce(until map[netip.Addr]time.Time) error {
	return f.announcer.set(until)
}

func (a *announcer) set(until map[netip.Addr]time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	boot, err := bootTime()
	if err != nil {
		return err
	}
	present, err := a.announced.All()
	if err != nil {
		return err
	}
	var failed []error
	for addr, deadline := range until {
		addr = addr.Unmap()
		key, left := keyOf(addr), time.Until(deadline)
		if left <= 0 {
			continue
		}
		before, known := present[key]
		delete(present, key)
		if err := a.announce(addr, uint64(boot+int64(left))); err != nil {
			failed = append(failed, err)
			continue
		}
		if !known || before <= uint64(boot) {
			a.notifyNeighbours(addr)
		}
	}
	for key := range present {
		failed = append(failed, a.withdraw(bpf.FromNetwork(key.Word)))
	}
	return errors.Join(failed...)
}

// follow announces the addresses at these uplinks. They are announced again where an uplink is new, has another link
// address or has come up: neighbours may have forgotten them, or not received it.
func (a *announcer) follow(uplinks []uplink) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.uplinks
	a.uplinks = append([]uplink{}, uplinks...)
	fresh := slices.ContainsFunc(uplinks, func(u uplink) bool { return u.up && !slices.Contains(before, u) })
	if before == nil || slices.Equal(before, uplinks) {
		return nil // addresses that an earlier process announced are still answered for
	}
	boot, err := bootTime()
	if err != nil {
		return err
	}
	present, err := a.announced.All()
	if err != nil {
		return err
	}
	var failed []error
	for key, deadline := range present {
		addr := bpf.FromNetwork(key.Word)
		if deadline <= uint64(boot) {
			continue
		}
		for _, u := range before {
			if !slices.ContainsFunc(uplinks, func(o uplink) bool { return o.index == u.index }) {
				_ = a.socket.listen(u, addr, false) // the interface may not exist any more
			}
		}
		for _, u := range uplinks {
			if err := a.socket.listen(u, addr, true); err != nil {
				failed = append(failed, fmt.Errorf("announce %s on uplink %s: %w", addr, u.name, err))
			}
		}
		if fresh {
			a.notifyNeighbours(addr)
		}
	}
	return errors.Join(failed...)
}

func (a *announcer) announce(addr netip.Addr, deadline uint64) error {
	for _, u := range a.uplinks {
		if err := a.socket.listen(u, addr, true); err != nil {
			return fmt.Errorf("announce %s on uplink %s: %w", addr, u.name, err)
		}
	}
	return a.announced.Put(keyOf(addr), deadline)
}

func (a *announcer) withdraw(addr netip.Addr) error {
	if stop, ok := a.notifying[addr]; ok {
		stop()
		delete(a.notifying, addr)
	}
	failed := []error{a.announced.Delete(keyOf(addr))}
	for _, u := range a.uplinks {
		if err := a.socket.listen(u, addr, false); err != nil {
			failed = append(failed, fmt.Errorf("stop listening for %s on uplink %s: %w", addr, u.name, err))
		}
	}
	return errors.Join(failed...)
}

// notifyNeighbours announces the address to the neighbours' tables and the switches', now and a few times more.
func (a *announcer) notifyNeighbours(addr netip.Addr) {
	if stop, ok := a.notifying[addr]; ok {
		stop()
	}
	ctx, stop := context.WithCancel(a.ctx)
	a.notifying[addr] = stop
	uplinks := slices.DeleteFunc(slices.Clone(a.uplinks), func(u uplink) bool { return !u.up })
	a.done.Go(func() {
		defer stop()
		next := time.NewTicker(notificationPause)
		defer next.Stop()
		for i := range notifications {
			if i > 0 {
				select {
				case <-next.C:
				case <-ctx.Done():
				}
			}
			if ctx.Err() != nil {
				return
			}
			for _, u := range uplinks {
				if err := a.socket.announce(u, addr); err != nil {
					a.log.Warn("neighbours not notified of a load-balancer address", "address", addr, "uplink", u.name, "err", err)
				}
			}
		}
	})
}

func (a *announcer) close() error {
	a.stop()
	a.done.Wait()
	return a.socket.close()
}

// bootTime is the clock of bpf_ktime_get_boot_ns.
func bootTime() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return now.Nano(), nil
}

func keyOf(addr netip.Addr) bpf.UplinkAddress { return bpf.UplinkAddress{Word: bpf.ToNetwork(addr)} }

package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// neighbourhood answers ARP and neighbour solicitations for addresses, and asks who else does: *flow.Flows.
type neighbourhood interface {
	Announce(until map[netip.Addr]time.Time) error
	InUse(addrs []netip.Addr) (map[netip.Addr]bool, error)
}

// announcer answers for the load-balancer addresses that this node owns. While the node's lease is renewed, no other node can own them.
// If it is not renewed in time another may: the control plane assigns an address to another node, but only while it runs, and only nodes that it
// reaches learn of it. So from then on this node asks its neighbours every second who has the address, and keeps answering until
// another node says that it has it; the new owner announces it to all neighbours at once and answers those that ask. This node does
// not answer for an address that another has until that node stops answering and this node's lease holds again. So without a control
// plane addresses stay where they are, and two nodes that reach each other both answer only until the next query.
type announcer struct {
	mu        sync.Mutex
	flows     neighbourhood // nil until there are any
	addrs     []netip.Addr
	until     time.Time           // the end of the lease, as last renewed by this process
	held      time.Time           // until when the last query to neighbours allows answering
	lapsed    time.Time           // when the lease was last about to end or over
	yielded   map[netip.Addr]bool // addresses that another node has
	announced bool                // something is announced that may have to be withdrawn
}

const (
	// askEvery is the time between two queries to neighbours.
	askEvery = time.Second
	// lapsing is how long before the lease's end neighbours are first asked: when it was not renewed for a little more than a second, the
	// control plane may already count this node as lost, if other nodes cannot reach it.
	lapsing = 3800 * time.Millisecond
	// holding is how long this node answers for an address after a query that no neighbour answered. If the agent ends, answering
	// stops by itself.
	holding = 5 * time.Second
	// doubting is how long neighbours are still asked after the lease is renewed again: the control plane may have assigned this
	// node's addresses to others meanwhile, which this node has not received yet.
	doubting = 15 * time.Second
)

func (a *announcer) use(f neighbourhood) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flows = f
}

// Own names the addresses that this node owns now.
func (a *announcer) Own(addrs []netip.Addr) {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.addrs, addrs) {
		return
	}
	slog.Info("load-balancer addresses announced here", "addresses", addrs)
	a.addrs = addrs
	for addr := range a.yielded {
		if !slices.Contains(addrs, addr) {
			delete(a.yielded, addr)
		}
	}
	a.announce()
}

// renewed says until when this node's lease holds.
func (a *announcer) renewed(until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = until
	if len(a.addrs) > 0 {
		a.announce()
	}
}

// run asks neighbours while that is needed, until ctx ends.
func (a *announcer) run(ctx context.Context) error {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			a.look(now)
		}
	}
}

// look asks neighbours who has the addresses if another node may have been given them.
func (a *announcer) look(now time.Time) {
	a.mu.Lock()
	flows, asked := a.flows, slices.Clone(a.addrs)
	if a.until.IsZero() {
		asked = nil // what an earlier agent announced stays valid as long as it set
	} else if a.until.Sub(now) < lapsing {
		a.lapsed = now
	} else if now.Sub(a.lapsed) > doubting {
		asked = slices.DeleteFunc(asked, func(addr netip.Addr) bool { return !a.yielded[addr] })
	}
	a.mu.Unlock()
	if flows == nil || len(asked) == 0 {
		return
	}
	taken, err := flows.InUse(asked)
	if err != nil {
		slog.Error("the neighbours cannot be asked who announces load-balancer addresses: this node stops announcing them when its lease expires", "addresses", asked, "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range asked {
		if taken[addr] == a.yielded[addr] {
			continue
		}
		if !taken[addr] {
			slog.Info("load-balancer address announced here again: the other node does not announce it", "address", addr)
			delete(a.yielded, addr)
			continue
		}
		slog.Warn("load-balancer address no longer announced here: another node announces it", "address", addr)
		if a.yielded == nil {
			a.yielded = map[netip.Addr]bool{}
		}
		a.yielded[addr] = true
	}
	a.held = now.Add(holding)
	a.announce()
}

// announce is called with mu held. Until this process has renewed the lease, what an earlier agent announced stays valid as long as
// that agent set.
func (a *announcer) announce() {
	deadline := a.until
	if a.held.After(deadline) && !a.until.IsZero() {
		deadline = a.held
	}
	if a.flows == nil || len(a.addrs) == 0 && !a.announced || len(a.addrs) > 0 && !time.Now().Before(deadline) {
		return
	}
	until := make(map[netip.Addr]time.Time, len(a.addrs))
	for _, addr := range a.addrs {
		if !a.yielded[addr] {
			until[addr] = deadline
		}
	}
	if err := a.flows.Announce(until); err != nil {
		slog.Error("load-balancer addresses not announced", "addresses", a.addrs, "err", err)
		return
	}
	a.announced = len(until) > 0
}

package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/skep-io/skep/dataplane/flow"
)

// announcer answers for the load-balancer addresses that this node owns for as long as the cluster believes that it lives:
// until the lease that it last renewed runs out. So an address has never two owners: another is named only after that.
type announcer struct {
	mu    sync.Mutex
	flows *flow.Flows // nil until there are any
	addrs []netip.Addr
	until time.Time
	told  bool // something has been announced that may have to be taken back
}

func (a *announcer) use(f *flow.Flows) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flows = f
}

// Own names the addresses that this node owns now.
func (a *announcer) Own(addrs []netip.Addr) {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.addrs, addrs) {
		return
	}
	slog.Info("load-balancer addresses answered for here", "addresses", addrs)
	a.addrs = addrs
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

// announce is called with mu held. Until this process has renewed the lease, what its predecessor announced holds for as long
// as it was announced.
func (a *announcer) announce() {
	if a.flows == nil || len(a.addrs) == 0 && !a.told || len(a.addrs) > 0 && !time.Now().Before(a.until) {
		return
	}
	until := make(map[netip.Addr]time.Time, len(a.addrs))
	for _, addr := range a.addrs {
		until[addr] = a.until
	}
	if err := a.flows.Announce(until); err != nil {
		slog.Error("load-balancer addresses not announced", "addresses", a.addrs, "error", err)
		return
	}
	a.told = len(until) > 0
}

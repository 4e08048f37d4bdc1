package pod

import (
	"net/netip"
	"sync"

	"github.com/skep-io/skep/agent/pod/life"
)

// address is the pod's place in the node's service maps. Its methods are called from any goroutine:
// an exit withdraws the address before anything else happens.
type address struct {
	mu sync.Mutex
	// addrs are the pod's own; none on the node's network, or before it has one.
	addrs []netip.Addr
	// withdrawn undo withdrawals; empty while the pod is in the maps.
	withdrawn []func()
}

func (a *address) withdraw(plane Plane) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.withdrawn) > 0 {
		return
	}
	for _, addr := range a.addrs {
		a.withdrawn = append(a.withdrawn, plane.WithdrawAddress(addr))
	}
}

// restore puts the address back when the pod is ready again, or drops the withdrawal when the pod
// has ended.
func (a *address) restore() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, restored := range a.withdrawn {
		restored()
	}
	a.withdrawn = nil
}

// withdrawFor removes the pod from the service maps because of one of its containers, unless that
// is an init container.
func (w *worker) withdrawFor(container string) {
	for i := range w.ref.Spec.InitContainers {
		if c := &w.ref.Spec.InitContainers[i]; c.Name == container && !isSidecar(w.ref, c) {
			return
		}
	}
	w.address.withdraw(w.pods.cfg.Plane)
}

// setAddrs sets the pod's own addresses.
func (w *worker) setAddrs(addrs []netip.Addr) {
	w.address.mu.Lock()
	w.address.addrs = addrs
	w.address.mu.Unlock()
	w.pods.cfg.HostPorts.SetHostPorts(w.ref, addrs)
	w.post(life.AddressesAssigned{Addrs: addrs})
}

func (w *worker) addresses() []netip.Addr {
	w.address.mu.Lock()
	defer w.address.mu.Unlock()
	return w.address.addrs
}

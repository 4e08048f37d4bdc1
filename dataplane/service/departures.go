package service

import (
	"context"
	"net/netip"
	"sync/atomic"
)

// Departure says that a backend gets no new connections through a service any
// more. Sockets may still be connected to it.
type Departure struct {
	Service  string
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
	// Draining: the service still lists it, without slots (it is terminating
	// or unready). Reported for UDP only, whose sockets get no sign of it.
	Draining bool
	// Withdrawn: the address itself was removed by WithdrawAddress.
	Withdrawn bool
	// Last: no service has this address, port and protocol any more.
	Last bool
}

// Gone reports every departure from the first call on, once each and in order.
// Whoever calls it has to read until Close, which closes the channel: what is
// not read is kept in memory.
func (p *Plane) Gone() <-chan Departure {
	p.gone.wanted.Store(true)
	return p.gone.out
}

// departures is an unlimited queue between the reconciler, which must not wait,
// and one reader.
type departures struct {
	in, out chan Departure
	wanted  atomic.Bool
}

func newDepartures() *departures {
	return &departures{in: make(chan Departure), out: make(chan Departure)}
}

// notify returns at once, as run is always ready to receive.
func (d *departures) notify(ctx context.Context, departure Departure) {
	if !d.wanted.Load() {
		return
	}
	select {
	case d.in <- departure:
	case <-ctx.Done():
	}
}

// run passes departures on until ctx ends.
func (d *departures) run(ctx context.Context) {
	defer close(d.out)
	var waiting []Departure
	for {
		var out chan Departure
		var next Departure
		if len(waiting) > 0 {
			out, next = d.out, waiting[0]
		}
		select {
		case <-ctx.Done():
			return
		case departure := <-d.in:
			waiting = append(waiting, departure)
		case out <- next:
			waiting = waiting[1:]
		}
	}
}

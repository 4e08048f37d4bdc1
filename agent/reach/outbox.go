package reach

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/flow"
)

const (
	// copies is how often each statement is sent to each node: nobody acknowledges it.
	copies = 3
	// pause is the time between two copies.
	pause = 30 * time.Millisecond
	// mostPackets bounds how many packets a second this node sends to all nodes; a first round to all is never held up.
	mostPackets = 20000
	// mostPending bounds the statements that wait to be sent: further ones are dropped, and their witnesses repeat them.
	mostPending = 1024
)

// subject is whose statement about whom.
type pair struct{ witness, subject string }

// parcel is statements on their way to some nodes, or to all.
type parcel struct {
	to    []string // nil: all
	items map[pair]skepv1.Statement
	left  int
	due   time.Time
}

// outbox sends statements to other nodes, each several times. Its methods do not block.
type outbox struct {
	key   flow.ProbeKey
	self  string
	write func(data []byte, to netip.AddrPort)
	wake  chan struct{}

	mu      sync.Mutex
	nodes   map[string]netip.Addr
	parcels []*parcel
	pending int
	full    bool      // some were dropped since nothing waited
	passed  time.Time // when something was last sent to all
}

func newOutbox(key flow.ProbeKey, self string, write func([]byte, netip.AddrPort)) *outbox {
	return &outbox{key: key, self: self, write: write, wake: make(chan struct{}, 1), nodes: map[string]netip.Addr{}}
}

// setNodes sets the addresses of all nodes.
func (o *outbox) setNodes(nodes map[string]netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nodes = nodes
}

func (o *outbox) tell(nodes []string, statements []skepv1.Statement) {
	if len(nodes) > 0 {
		o.add(nodes, statements)
	}
}

func (o *outbox) everyone(statements []skepv1.Statement) { o.add(nil, statements) }

func (o *outbox) add(to []string, statements []skepv1.Statement) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := &parcel{to: to, items: map[pair]skepv1.Statement{}, left: copies}
	for _, s := range statements {
		if o.pending >= mostPending {
			if !o.full {
				o.full = true
				slog.Warn("too many statements wait to be sent: some are dropped until they are repeated", "waiting", o.pending)
			}
			break
		}
		p.items[pair{s.Witness, s.Subject}] = s
		o.pending++
	}
	if to == nil {
		p = o.merge(p)
	}
	if p != nil {
		o.parcels = append(o.parcels, p)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// merge adds to a parcel for all nodes that has not been sent yet: one packet can have several statements.
func (o *outbox) merge(p *parcel) *parcel {
	for _, other := range o.parcels {
		if other.to == nil && other.left == copies {
			for key, s := range p.items {
				if _, ok := other.items[key]; ok {
					o.pending--
				}
				other.items[key] = s
			}
			return nil
		}
	}
	return p
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next, ok := o.send(time.Now()); ok {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		case <-timer.C:
		}
	}
}

// send sends what is due, and returns when something is next.
func (o *outbox) send(now time.Time) (next time.Time, ok bool) {
	var ready []*parcel
	o.mu.Lock()
	nodes := o.nodes
	gap := max(pause, time.Duration(len(nodes))*time.Second/mostPackets)
	keep := o.parcels[:0]
	for _, p := range o.parcels {
		if earliest := o.passed.Add(gap); p.to == nil && p.due.Before(earliest) {
			p.due = earliest
		}
		if !p.due.After(now) {
			ready = append(ready, p)
			if p.due = now.Add(pause); p.to == nil {
				p.due, o.passed = now.Add(gap), now
			}
			if p.left--; p.left == 0 {
				o.pending -= len(p.items)
				continue
			}
		}
		keep = append(keep, p)
		if !ok || p.due.Before(next) {
			next, ok = p.due, true
		}
	}
	o.full = o.full && o.pending > 0
	o.parcels = keep
	o.mu.Unlock()
	for _, p := range ready {
		o.deliver(p, nodes)
	}
	return next, ok
}

func (o *outbox) deliver(p *parcel, nodes map[string]netip.Addr) {
	statements := make([]skepv1.Statement, 0, len(p.items))
	for _, s := range p.items {
		statements = append(statements, s)
	}
	datagrams, err := messages(o.key, statements)
	if err != nil {
		slog.Error("statements cannot be sent", "err", err)
	}
	for _, data := range datagrams {
		if p.to != nil {
			for _, name := range p.to {
				o.write(data, netip.AddrPortFrom(nodes[name], flow.ProbePort))
			}
			continue
		}
		for name, addr := range nodes { // each time in another order
			if name != o.self {
				o.write(data, netip.AddrPortFrom(addr, flow.ProbePort))
			}
		}
	}
}

// sockets are this node's at the port of probes and statements, one of each address family.
type sockets []*net.UDPConn

func listen(addrs []netip.Addr) (open sockets, err error) {
	for _, addr := range addrs {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, flow.ProbePort)))
		if err != nil {
			open.close()
			return nil, err
		}
		open = append(open, conn)
	}
	return open, nil
}

func (s sockets) close() {
	for _, conn := range s {
		conn.Close()
	}
}

// write sends from the address of the receiver's family. What is lost is sent again, or repeated by its witness.
func (s sockets) write(data []byte, to netip.AddrPort) {
	for _, conn := range s {
		if local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); local.Is4() == to.Addr().Is4() && to.IsValid() {
			_, _ = conn.WriteToUDPAddrPort(data, to)
			return
		}
	}
}

// read hands on every message that arrives until the socket is closed.
func read(conn *net.UDPConn, key flow.ProbeKey, heard func(from netip.Addr, statements []skepv1.Statement), refused func()) {
	buffer := make([]byte, 2*mostSize)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			if isClosed(err) {
				return
			}
			continue
		}
		statements, err := parseMessage(key, buffer[:n])
		if err != nil {
			refused()
			continue
		}
		heard(from.Addr().Unmap(), statements)
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A connection on which sent data stays unacknowledged for so long is closed: after a network failure, TCP would wait much
	// longer before it sends again.
	acknowledgedWithin = 5 * time.Second
	dialWithin         = time.Second
	dialAgain          = 100 * time.Millisecond
	// resolveWithin gives the resolver time to try another server after one that does not answer, for which it waits 5 s.
	resolveWithin = 15 * time.Second
	// resolveAgainWithin is for a name that was resolved before: if DNS is slower, the earlier addresses are used.
	resolveAgainWithin = time.Second
)

// dialer connects to the API server, or the first of several that can be connected to, and keeps trying while none can. Callers would
// otherwise back off, watches up to a minute, and reconnect that much later.
type dialer struct {
	resolver *net.Resolver
	servers  *servers // nil: only the address that is dialled

	mu      sync.Mutex
	known   map[string][]string // host name -> addresses, as last resolved
	problem error               // why there is no connection; nil once there is one
	open    map[*serverConn]bool
}

func newDialer(s *servers) *dialer {
	return &dialer{resolver: net.DefaultResolver, servers: s, known: map[string][]string{}, open: map[*serverConn]bool{}}
}

// serverConn is a connection to a server. When it ends, for whatever reason, another server is dialled first.
type serverConn struct {
	net.Conn
	dialer  *dialer
	address string
}

// Close implements net.Conn.
func (c *serverConn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.open, c)
	c.dialer.mu.Unlock()
	c.dialer.servers.leave(c.address)
	return c.Conn.Close()
}

// leave ends the connections to the current server, which does not answer, if there is another to turn to.
func (d *dialer) leave() {
	current, ok := d.servers.mayLeave(time.Now())
	if !ok {
		return
	}
	slog.Warn("the API server does not answer in time; turning to another", "server", current, "within", leaseAnsweredWithin)
	d.servers.leave(current)
	d.mu.Lock()
	conns := slices.Collect(maps.Keys(d.open))
	d.mu.Unlock()
	for _, c := range conns {
		if c.address == current {
			_ = c.Close() // its reads and writes end with an error
		}
	}
}

// first connects to the first server that can be.
func (d *dialer) first(ctx context.Context, network string) (net.Conn, error) {
	var problem error
	for _, address := range d.servers.order() {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		conn, err := d.try(ctx, network, host, port)
		if err == nil {
			d.servers.use(address)
			c := &serverConn{Conn: conn, dialer: d, address: address}
			d.mu.Lock()
			d.open[c] = true
			d.mu.Unlock()
			return c, nil
		}
		problem = errors.Join(problem, err)
	}
	return nil, problem
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for {
		var conn net.Conn
		if d.servers != nil {
			conn, err = d.first(ctx, network)
		} else {
			conn, err = d.try(ctx, network, host, port)
		}
		d.mu.Lock()
		d.problem = err
		d.mu.Unlock()
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(dialAgain):
		}
	}
}

// try tries each address once.
func (d *dialer) try(ctx context.Context, network, host, port string) (conn net.Conn, err error) {
	addresses, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	within := net.Dialer{Timeout: dialWithin, KeepAlive: 2 * time.Second, Control: limitSilence}
	for _, address := range addresses {
		if conn, err = within.DialContext(ctx, network, net.JoinHostPort(address, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// resolve asks DNS. While that does not answer, the last resolved addresses are used.
func (d *dialer) resolve(ctx context.Context, host string) ([]string, error) {
	d.mu.Lock()
	before := d.known[host]
	d.mu.Unlock()
	within := resolveWithin
	if before != nil {
		within = resolveAgainWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	addresses, err := d.resolver.LookupHost(ctx, host)
	if err != nil && before != nil {
		return before, nil
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	d.mu.Lock()
	d.known[host] = addresses
	d.mu.Unlock()
	return addresses, nil
}

// reason says why there is no connection, to be appended to an error.
func (d *dialer) reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.problem == nil {
		return ""
	}
	return " (not connected: " + d.problem.Error() + ")"
}

// limitSilence bounds how long sent data may stay unacknowledged.
func limitSilence(_, _ string, c syscall.RawConn) error {
	var failure error
	if err := c.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(acknowledgedWithin.Milliseconds()))
	}); err != nil {
		return err
	}
	return failure
}

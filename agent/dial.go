package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A connection over which nothing was acknowledged for so long is given up: after a cut, TCP would wait much longer before
	// it tries again.
	acknowledgedWithin = 5 * time.Second
	dialWithin         = time.Second
	dialAgain          = 100 * time.Millisecond
	// resolveWithin leaves the resolver the time to go on to another server after one that does not answer, for which it waits 5 s.
	resolveWithin = 15 * time.Second
	// resolveAgainWithin is for a name whose addresses are known from before: they are tried rather than waited for.
	resolveAgainWithin = time.Second
)

// dialer connects to the API server, however long it is away. Its callers would otherwise back off, watches up to a minute, and
// notice that much later that it is back.
type dialer struct {
	resolver *net.Resolver

	mu      sync.Mutex
	known   map[string][]string // host name -> addresses, as last resolved
	problem error               // why there is no connection; nil once there is one
}

func newDialer() *dialer {
	return &dialer{resolver: net.DefaultResolver, known: map[string][]string{}}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for {
		conn, err := d.try(ctx, network, host, port)
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

// resolve asks DNS. While that does not answer, the addresses hold that it said last.
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

// reason is why there is no connection, as an addition to an error.
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

package agent

import (
	"context"
	"net"
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
)

// dialPatiently connects to the API server, however long it is away. Its callers would otherwise back off, watches up to a
// minute, and hear that much later that it is back.
func dialPatiently(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialWithin, KeepAlive: 2 * time.Second, Control: limitSilence}
	for {
		conn, err := d.DialContext(ctx, network, address)
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

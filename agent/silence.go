package agent

import (
	"syscall"

	"golang.org/x/sys/unix"
)

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

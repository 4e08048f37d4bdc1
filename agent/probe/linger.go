package probe

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lingerShort bounds how long a closed connection lingers to a second.
func lingerShort(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	})
	if err != nil {
		return err
	}
	return set
}

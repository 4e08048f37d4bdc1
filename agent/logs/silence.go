package logs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/silence"
)

// killSilent kills the writer at the other end of conn if it runs but does not answer.
func (l *Logs) killSilent(ctx context.Context, conn net.Conn) {
	interval := l.cfg.Patience / 6
	tick := time.NewTicker(interval)
	defer tick.Stop()
	asker := &Logs{cfg: l.cfg} // a separate connection: commands may block on theirs
	defer asker.disconnect()
	clock := silence.NewClock("the log writer", interval, l.cfg.Patience, l.cfg.Logger)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ask := func(ctx context.Context) error {
			_, err := asker.exchange(ctx, request{Do: "version"})
			return err
		}
		if !clock.Ask(ctx, ask) {
			continue
		}
		if err := killPeer(conn); err != nil {
			l.cfg.Logger.Error("log writer not killed", "err", err)
		}
		return
	}
}

// killPeer kills the process that listens at the other end of a Unix socket.
func killPeer(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%T is not a Unix socket", conn)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	// While the connection is open the process exists, so the PID is its own.
	return unix.Kill(int(peer.Pid), unix.SIGKILL)
}

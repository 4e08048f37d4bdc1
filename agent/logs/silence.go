package logs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// killSilent kills the writer at the other end of conn when it lives and does not answer.
func (l *Logs) killSilent(ctx context.Context, conn net.Conn) {
	interval, patience := l.cfg.Patience/6, l.cfg.Patience
	answered, tick := time.Now(), time.NewTicker(interval)
	defer tick.Stop()
	asker := &Logs{cfg: l.cfg} // a connection of its own: commands wait for theirs
	defer asker.disconnect()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, interval)
		_, err := asker.exchange(asking, request{Do: "version"})
		cancel()
		silent := time.Since(answered)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			answered = time.Now()
		case silent < patience:
			l.cfg.Logger.Warn("the log writer does not answer", "since", silent.Round(time.Second), "killed_after", patience, "err", err)
		default:
			l.cfg.Logger.Error("the log writer does not answer; killing it, to start it again", "since", silent.Round(time.Second), "err", err)
			if err := killPeer(conn); err != nil {
				l.cfg.Logger.Error("log writer not killed", "err", err)
			}
			return
		}
	}
}

// killPeer kills the process that listens at the other end of a Unix socket.
func killPeer(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%T is no Unix socket", conn)
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
	// While the connection is open the process lives, so the number is its own.
	return unix.Kill(int(peer.Pid), unix.SIGKILL)
}

package main

import (
	"log/slog"
	"net"
	"os"
	"strings"
)

// notify tells systemd about a state, as sd_notify(3) does, if systemd asked for it.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		slog.Warn("systemd could not be told", "state", state, "err", err)
	}
}

package daemon

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
)

// Notify sends systemd a state, as sd_notify(3) does, if systemd asked for it.
func Notify(state string) {
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
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		slog.Warn("systemd not notified", "state", state, "err", err)
	}
}

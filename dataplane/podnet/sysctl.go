package podnet

import (
	"fmt"
	"os"
	"strings"
)

// interfaceSysctl is the file of an IPv4 setting of one interface. /proc/sys/net shows the calling thread's namespace.
func interfaceSysctl(name, setting string) string {
	return "/proc/sys/net/ipv4/conf/" + name + "/" + setting
}

// enableForwarding lets packets that arrive at the interface go on to others. Set for each interface rather than for the
// host, so that a host's other networks do not become reachable through it.
func enableForwarding(name string) error { return setSysctl(interfaceSysctl(name, "forwarding"), "1") }

// setSysctl writes only what differs, so that a read-only /proc/sys whose values are right is no error.
func setSysctl(path, value string) error {
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

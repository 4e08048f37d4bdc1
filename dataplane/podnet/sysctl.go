package podnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// sysctlPath is the file of a setting of one interface. /proc/sys/net shows the calling thread's namespace.
func sysctlPath(family int, name, setting string) string {
	version := "ipv6"
	if family == netlink.FAMILY_V4 {
		version = "ipv4"
	}
	return "/proc/sys/net/" + version + "/conf/" + name + "/" + setting
}

// enableForwarding lets packets that arrive at the interface go on to others. Set for each interface rather than for the
// host, so that a host's other networks do not become reachable through it; for IPv6 kernels can do that from 6.17 on, and
// older ones forward between all interfaces.
func (f *family) enableForwarding(name string) error {
	if err := setSysctl(sysctlPath(f.id, name, "forwarding"), "1"); err != nil || f.is4() {
		return err
	}
	err := setSysctl(sysctlPath(f.id, name, "force_forwarding"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		return forwardEverywhere()
	}
	return err
}

// forwardEverywhere is how kernels before 6.17 are made to forward IPv6 at all.
func forwardEverywhere() error {
	return setSysctl(sysctlPath(netlink.FAMILY_V6, "all", "forwarding"), "1")
}

// keepAdvertisements lets an interface still accept addresses and default routes from router advertisements. It must run
// before forwarding is set on any interface: the kernel then drops the default routes of all that do not have this value.
func keepAdvertisements(name string) error {
	path := sysctlPath(netlink.FAMILY_V6, name, "accept_ra")
	value, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(value)) != "1" {
		return nil // removed, or set on purpose: 0 is off, 2 is the wanted value
	}
	return setSysctl(path, "2")
}

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

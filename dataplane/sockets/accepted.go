package sockets

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tcpSynRecv is how connections are listed whose handshake is under way.
const tcpSynRecv = 3

// Accepted counts the TCP connections in the network namespace at a path that a program there accepts or has accepted and that neither
// side has begun to close. Those over loopback are not counted.
func Accepted(path string) (int, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return 0, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	defer handle.Close()
	var all []*netlink.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := handle.SocketDiagTCP(family)
		if err != nil {
			return 0, fmt.Errorf("list TCP sockets of network namespace %s: %w", path, err)
		}
		all = append(all, list...)
	}
	listening := map[uint16]bool{}
	for _, s := range all {
		if s.State == tcpListen {
			listening[s.ID.SourcePort] = true
		}
	}
	count := 0
	for _, s := range all {
		if (s.State == tcpEstablished || s.State == tcpSynRecv) && listening[s.ID.SourcePort] && !s.ID.Destination.IsLoopback() {
			count++
		}
	}
	return count, nil
}

package agent

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/skep-io/skep/dataplane/podnet"
)

// checkInterfaces refuses node addresses and uplinks that this host does not have, and interfaces that
// cannot be an uplink.
func checkInterfaces(cfg Config) error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var fit []string
	for _, i := range all {
		if unfit(i) == "" {
			fit = append(fit, i.Name)
		}
	}
	advice := "name those that packets from outside arrive at, of " + strings.Join(fit, ", ")
	for n, name := range cfg.Uplinks {
		if slices.Contains(cfg.Uplinks[:n], name) {
			return fmt.Errorf("--uplink names %s twice", name)
		}
		at := slices.IndexFunc(all, func(i net.Interface) bool { return i.Name == name })
		if at < 0 {
			return fmt.Errorf("--uplink %s: this host has no such interface; %s", name, advice)
		}
		if why := unfit(all[at]); why != "" {
			return fmt.Errorf("--uplink %s: %s; %s", name, why, advice)
		}
	}
	return checkNodeIPs(cfg.NodeIPs)
}

// unfit says why an interface cannot be an uplink, "" if it can.
func unfit(i net.Interface) string {
	switch {
	case i.Flags&net.FlagLoopback != 0:
		return "nothing arrives from outside at the loopback interface"
	case strings.HasPrefix(i.Name, podnet.OwnPrefix):
		return "it leads to a pod, or to other nodes"
	case len(i.HardwareAddr) != 6:
		return "it has no Ethernet address, so the program would not understand its packets"
	}
	return ""
}

func checkNodeIPs(wanted []netip.Addr) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var own []string
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			own = append(own, p.Addr().String())
		}
	}
	for _, addr := range wanted {
		if !slices.Contains(own, addr.String()) {
			return fmt.Errorf("--node-ip %s: no interface of this host has that address; give one that the other hosts reach, of %s", addr, strings.Join(own, ", "))
		}
	}
	return nil
}

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// xdpPass is XDP_PASS of linux/bpf.h.
const xdpPass = 2

// reservedSubnets serialises the choice of a subnet among all clusters of the
// machine. The lock is on a folder that always exists, so no lock file remains.
const reservedSubnets = "/run"

// ensureBridge makes the cluster's bridge, choosing a free subnet if the
// cluster has none yet (subnet 0 is never used), and returns the subnet.
func ensureBridge(name string, subnet int, ipv6 bool) (int, error) {
	lock, err := os.Open(reservedSubnets)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := retryInterrupted(func() error { return unix.Flock(int(lock.Fd()), unix.LOCK_EX) }); err != nil {
		return 0, err
	}
	bridge, err := ownLink(name, bridgeName(name))
	if err != nil {
		return 0, err
	}
	if bridge == nil {
		if subnet, err = freeSubnet(subnet); err != nil {
			return 0, err
		}
		if bridge, err = addBridge(name); err != nil {
			return 0, err
		}
	} else if subnet == 0 {
		return 0, fmt.Errorf("bridge %s exists, but not this cluster's state: remove the earlier cluster with `skep down --name %s`", bridgeName(name), name)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return 0, fmt.Errorf("bridge %s: %w", bridgeName(name), err)
	}
	return subnet, addAddresses(bridge, onBridge.addrs(subnet, gatewayHost, ipv6))
}

// addAddresses gives a link addresses that are usable at once: nobody else on a
// cluster's links chooses addresses.
func addAddresses(link netlink.Link, prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("%s: address %s: %w", link.Attrs().Name, p, err)
		}
	}
	return nil
}

func addBridge(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName(name)
	// A bridge without an address of its own uses its lowest port's, and
	// changes it as hosts are added and removed.
	attrs.HardwareAddr = nodeMAC(name, 0)
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", attrs.Name, err)
	}
	return bridge, netlink.LinkSetAlias(bridge, linkAlias(name))
}

// ownLink finds a link of this cluster. A link of that name that is not the
// cluster's own is an error: it must be neither used nor removed.
func ownLink(cluster, link string) (netlink.Link, error) {
	found, err := netlink.LinkByName(link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !isOwn(cluster, found) {
		return nil, fmt.Errorf("a network interface %s exists that is not of cluster %q (ip -d link show %s): choose another cluster name", link, cluster, link)
	}
	return found, nil
}

// isOwn compares the alias. A link with the cluster's name and no alias is its own
// too: the process crashed between its creation and its alias.
func isOwn(cluster string, link netlink.Link) bool {
	attrs := link.Attrs()
	if attrs.Alias != "" {
		return attrs.Alias == linkAlias(cluster)
	}
	switch link.Type() {
	case "bridge":
		return attrs.Name == bridgeName(cluster)
	case "veth":
		index, ok := strings.CutPrefix(attrs.Name, portName(cluster, 0)[:len(portName(cluster, 0))-1])
		n, err := strconv.Atoi(index)
		return ok && err == nil && portName(cluster, n) == attrs.Name
	}
	return false
}

// freeSubnet returns wanted if it is not 0 and free, else the first N whose
// 198.18.N.0/24 overlaps no route of this machine.
func freeSubnet(wanted int) (int, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, err
	}
	taken := func(subnet int) bool {
		for _, route := range routes {
			if route.Dst == nil {
				continue
			}
			addr, _ := netip.AddrFromSlice(route.Dst.IP)
			ones, bits := route.Dst.Mask.Size()
			if bits == 32 {
				addr = addr.Unmap()
			}
			for _, g := range []segment{onBridge, behindRouter} {
				p := netip.PrefixFrom(addr, ones)
				if ones > 0 && (p.Overlaps(g.prefix(subnet)) || p.Overlaps(g.prefix6(subnet))) {
					return true
				}
			}
		}
		return false
	}
	if wanted != 0 {
		if taken(wanted) {
			return 0, fmt.Errorf("the cluster's subnet %s is in use by another interface now: free it, or make the cluster anew with `skep down`", subnetPrefix(wanted))
		}
		return wanted, nil
	}
	for subnet := 1; subnet < 255; subnet++ {
		if !taken(subnet) {
			return subnet, nil
		}
	}
	return 0, errors.New("no free subnet in 198.18.0.0/16: remove a cluster with `skep down`")
}

// plug connects a host's namespace to its segment: eth0 inside, a port outside.
func plug(cluster string, st *state, n *nodeState) error {
	host, err := netns.GetFromName(netnsName(cluster, nodeName(n.Index)))
	if err != nil {
		return err
	}
	defer host.Close()
	if err := onSegment(cluster, n, func() error { return plugPort(cluster, n.Index, n.NoXDP, host) }); err != nil {
		return err
	}
	g := n.segment()
	addrs := g.addrs(st.Subnet, 10+n.Index, st.IPv6)
	return inNamespace(host, func() error {
		return configureHostLinks(addrs, hostRoutes(st, g))
	})
}

// onSegment runs f where the host's port is: on this machine, or in the router.
func onSegment(cluster string, n *nodeState, f func() error) error {
	if !n.Routed {
		return f()
	}
	router, err := netns.GetFromName(netnsName(cluster, routerName))
	if err != nil {
		return fmt.Errorf("the router's network namespace: %w", err)
	}
	defer router.Close()
	return inNamespace(router, f)
}

func inNamespace(ns netns.NsHandle, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// plugPort makes a cable from the bridge of this namespace to eth0 of inner. A
// veth refuses XDP programs while its other end has more transmit queues than it
// has receive queues: noXDP makes it so.
func plugPort(cluster string, index int, noXDP bool, inner netns.NsHandle) error {
	bridge, err := ownLink(cluster, bridgeName(cluster))
	if err != nil {
		return err
	}
	if bridge == nil {
		return fmt.Errorf("bridge %s is gone", bridgeName(cluster))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName(cluster, index)
	attrs.MasterIndex = bridge.Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inner)}
	if noXDP {
		port.NumTxQueues, port.PeerNumTxQueues = 2, 1
	}
	if index > 0 { // 0 is the router, whose address the bridge's would be
		port.PeerHardwareAddr = nodeMAC(cluster, index)
	}
	if err := netlink.LinkAdd(port); err != nil {
		return fmt.Errorf("port %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetAlias(port, linkAlias(cluster)); err != nil {
		return fmt.Errorf("port %s: alias: %w", attrs.Name, err)
	}
	return preparePort(port)
}

// hostRoutes are a host's routes off its segment. The default one leads to this
// machine, for IPv4 only: it routes no IPv6 for the hosts, so pods get the error
// that there is no route at once.
func hostRoutes(st *state, g segment) []netlink.Route {
	routes := []netlink.Route{{Gw: g.addr(st.Subnet, gatewayHost).AsSlice()}}
	if g == onBridge {
		routes = append(routes, netlink.Route{Dst: ipNet(behindRouter.prefix(st.Subnet)), Gw: g.addr(st.Subnet, routerHost).AsSlice()})
	}
	switch {
	case !st.IPv6:
	case g == onBridge:
		routes = append(routes, netlink.Route{Dst: ipNet(behindRouter.prefix6(st.Subnet)), Gw: g.addr6(st.Subnet, routerHost).AsSlice()})
	default:
		routes = append(routes, netlink.Route{Dst: ipNet(onBridge.prefix6(st.Subnet)), Gw: g.addr6(st.Subnet, gatewayHost).AsSlice()})
	}
	return routes
}

// configureHostLinks is called inside the host's network namespace.
func configureHostLinks(addrs []netip.Prefix, routes []netlink.Route) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(eth0), addAddresses(eth0, addrs)); err != nil {
		return err
	}
	for _, r := range routes {
		r.LinkIndex = eth0.Attrs().Index
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("eth0: route to %v by %s: %w", r.Dst, r.Gw, err)
		}
	}
	return nil
}

// preparePort lets XDP programs at the host's end transmit and redirect: a veth
// accepts such frames only if its other end runs XDP natively, and checksums that
// the sender leaves to its device are lost.
func preparePort(port netlink.Link) error {
	if err := disableTransmitChecksums(port.Attrs().Name); err != nil {
		return fmt.Errorf("port %s: turn transmit checksum offload off: %w", port.Attrs().Name, err)
	}
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "skep_port_pass",
		Type:         ebpf.XDP,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return fmt.Errorf("port %s: load XDP: %w", port.Attrs().Name, err)
	}
	defer pass.Close()
	if err := netlink.LinkSetXdpFdWithFlags(port, pass.FD(), unix.XDP_FLAGS_DRV_MODE); err != nil {
		return fmt.Errorf("port %s: attach XDP: %w", port.Attrs().Name, err)
	}
	return netlink.LinkSetUp(port)
}

func disableTransmitChecksums(link string) error {
	_, err := ethtool(link, unix.ETHTOOL_STXCSUM, 0)
	return err
}

// ethtool runs one of the commands that carry a struct ethtool_value.
func ethtool(link string, command, data uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command, data}
	// struct ifreq: a name, and a union of 24 bytes of which SIOCETHTOOL takes a pointer.
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], link)
	request.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// setPort brings the bridge's end of a host's cable up or down.
func setPort(cluster string, n *nodeState, up bool) error {
	return onSegment(cluster, n, func() error {
		port, err := ownLink(cluster, portName(cluster, n.Index))
		if err != nil {
			return err
		}
		if port == nil {
			return fmt.Errorf("port %s is gone", portName(cluster, n.Index))
		}
		if up {
			return netlink.LinkSetUp(port)
		}
		return netlink.LinkSetDown(port)
	})
}

// removeLinks deletes the bridge and every port of the cluster, whatever else is missing.
func removeLinks(cluster string) (int, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, err
	}
	var errs []error
	removed := 0
	for _, link := range links {
		if !isOwn(cluster, link) {
			continue
		}
		// A port may be removed meanwhile with its other end's namespace.
		err := netlink.LinkDel(link)
		if err != nil && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("remove interface %s: %w", link.Attrs().Name, err))
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

func removePort(cluster string, n *nodeState) error {
	return onSegment(cluster, n, func() error {
		port, err := ownLink(cluster, portName(cluster, n.Index))
		if err != nil || port == nil {
			return err
		}
		if err := netlink.LinkDel(port); err != nil && !errors.Is(err, syscall.ENODEV) {
			return err
		}
		return nil
	})
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

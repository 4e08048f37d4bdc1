package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podInterface is the pod's end of its veth pair.
const podInterface = "eth0"

// gateway is every pod's next hop: a link-local address that no interface has. Pods hold a permanent neighbour entry for it
// with hostMAC, so that neither a proxy nor an ARP exchange stands between a pod and its first packet.
var gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// hostMAC is the address of every host end. Giving it explicitly also keeps udev from replacing a generated one after the
// pod has already learnt it.
var hostMAC = net.HardwareAddr{0x0e, 0x5c, 0xe9, 0, 0, 1}

var hostInterfaceName = regexp.MustCompile(`^skep[0-9a-f]{11}$`)

// HostInterface is the name of a pod's interface on the host.
func HostInterface(podID string) string {
	sum := sha256.Sum256([]byte(podID))
	return "skep" + hex.EncodeToString(sum[:])[:11]
}

func isHostInterface(name string) bool { return hostInterfaceName.MatchString(name) }

func podMAC(podID string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(podID))
	return net.HardwareAddr{0x0a, sum[8], sum[9], sum[10], sum[11], sum[12]}
}

// The alias is the record of an attachment; written once the pod's end is in place, so a link without it is half made.
func formatAlias(podID string, addr netip.Addr) string {
	return "skep pod " + podID + " " + addr.String()
}

func parseAlias(alias string) (podID string, addr netip.Addr, err error) {
	f := strings.Fields(alias)
	if len(f) != 4 || f[0] != "skep" || f[1] != "pod" {
		return "", netip.Addr{}, fmt.Errorf("alias %q is not a pod's", alias)
	}
	addr, err = netip.ParseAddr(f[3])
	return f[2], addr, err
}

// Attach gives the pod whose network namespace is pinned at netnsPath its interface and address. Calling it again, also from
// a later process, repairs what is missing and returns the same address.
func (n *Network) Attach(podID, netnsPath string) (Attachment, error) {
	if podID == "" || len(podID) > 128 || strings.ContainsAny(podID, " \t\n") {
		return Attachment{}, fmt.Errorf("pod id %q cannot be kept in an interface alias", podID)
	}
	unlock := n.lockPod(podID)
	defer unlock()
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return Attachment{}, fmt.Errorf("network namespace %s of pod %s: %w", netnsPath, podID, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return Attachment{}, fmt.Errorf("enter network namespace %s of pod %s: %w", netnsPath, podID, err)
	}
	defer inside.Close()

	addr, fresh, err := n.reserve(podID)
	if err != nil {
		return Attachment{}, err
	}
	a, err := n.connect(podID, addr, ns, inside)
	if err != nil {
		n.abandon(podID, addr, fresh)
		return Attachment{}, fmt.Errorf("attach pod %s to the network: %w", podID, err)
	}
	n.mu.Lock()
	n.pods[podID] = a
	n.mu.Unlock()
	return a, nil
}

// reserve returns the pod's address, a new one if it has none.
func (n *Network) reserve(podID string) (addr netip.Addr, fresh bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pods[podID]; ok {
		return a.Addr, false, nil
	}
	addr, err = n.addresses.allocate(podID)
	return addr, true, err
}

// abandon undoes a first Attach that failed. A failed repair keeps the address: the pod may still be using it.
func (n *Network) abandon(podID string, addr netip.Addr, fresh bool) {
	if !fresh {
		return
	}
	if link, err := n.nl.LinkByName(HostInterface(podID)); err == nil {
		if err := n.deleteLink(link); err != nil {
			n.log.Error("a half made pod interface stays until the next start", "interface", link.Attrs().Name, "error", err)
			return // the address stays taken with it
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses.release(addr, podID)
}

func (n *Network) connect(podID string, addr netip.Addr, ns netns.NsHandle, inside *netlink.Handle) (Attachment, error) {
	name := HostInterface(podID)
	if err := n.ensurePair(podID, name, ns, inside); err != nil {
		return Attachment{}, err
	}
	host, err := n.nl.LinkByName(name)
	if err != nil {
		return Attachment{}, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := configurePod(inside, addr); err != nil {
		return Attachment{}, err
	}
	if err := n.configureHost(host, podID, addr); err != nil {
		return Attachment{}, err
	}
	if err := n.nl.LinkSetAlias(host, formatAlias(podID, addr)); err != nil {
		return Attachment{}, fmt.Errorf("set the alias of %s: %w", name, err)
	}
	return Attachment{Addr: addr, HostInterface: name, Index: host.Attrs().Index}, nil
}

// ensurePair makes the veth pair unless its two ends already are where they belong. An old pair whose inner end went away
// with its namespace cannot exist; one whose inner end is in another namespace is replaced.
func (n *Network) ensurePair(podID, name string, ns netns.NsHandle, inside *netlink.Handle) error {
	mac := podMAC(podID)
	peer, err := inside.LinkByName(podInterface)
	if err != nil && !isLinkNotFound(err) {
		return fmt.Errorf("look for %s in the pod: %w", podInterface, err)
	}
	host, herr := n.nl.LinkByName(name)
	if herr != nil && !isLinkNotFound(herr) {
		return fmt.Errorf("look for %s: %w", name, herr)
	}
	if err == nil && herr == nil && host.Attrs().ParentIndex == peer.Attrs().Index && peer.Attrs().HardwareAddr.String() == mac.String() {
		return nil
	}
	if herr == nil {
		if err := n.deleteLink(host); err != nil {
			return err
		}
	}
	if err == nil {
		if err := inside.LinkDel(peer); err != nil && !isLinkNotFound(err) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the %s that was in the pod: %w", podInterface, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.cfg.MTU, hostMAC
	pair := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         podInterface,
		PeerHardwareAddr: mac,
		PeerMTU:          uint32(n.cfg.MTU),
		PeerNamespace:    netlink.NsFd(int(ns)),
	}
	if err := n.nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("make interface pair %s: %w", name, err)
	}
	return nil
}

// configurePod brings the pod's loopback and its interface up. The order matters: the routes need the interface up, and the
// neighbour entry must be there before the default route lets the first packet out.
func configurePod(inside *netlink.Handle, addr netip.Addr) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback in the pod: %w", err)
	}
	eth, err := inside.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("%s in the pod: %w", podInterface, err)
	}
	for _, link := range []netlink.Link{lo, eth} {
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s in the pod up: %w", link.Attrs().Name, err)
		}
	}
	if err := inside.AddrReplace(eth, &netlink.Addr{IPNet: hostNet(addr)}); err != nil {
		return fmt.Errorf("give %s to the pod: %w", addr, err)
	}
	index := eth.Attrs().Index
	if err := inside.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: hostMAC,
	}); err != nil {
		return fmt.Errorf("set the pod's gateway neighbour: %w", err)
	}
	if err := inside.RouteReplace(&netlink.Route{LinkIndex: index, Dst: hostNet(gateway), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to the pod's gateway: %w", err)
	}
	if err := inside.RouteReplace(&netlink.Route{LinkIndex: index, Dst: anywhere(), Gw: gateway.AsSlice(), Src: addr.AsSlice()}); err != nil {
		return fmt.Errorf("default route of the pod: %w", err)
	}
	return nil
}

// configureHost makes the host end forward, refuse forged source addresses, and lead to the pod's address.
func (n *Network) configureHost(host netlink.Link, podID string, addr netip.Addr) error {
	name, index := host.Attrs().Name, host.Attrs().Index
	if err := enableForwarding(name); err != nil {
		return err
	}
	if err := setSysctl(interfaceSysctl(name, "rp_filter"), "1"); err != nil {
		return err
	}
	if err := n.nl.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if err := n.nl.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: podMAC(podID),
	}); err != nil {
		return fmt.Errorf("set the neighbour entry of %s: %w", addr, err)
	}
	if err := n.nl.RouteReplace(&netlink.Route{
		LinkIndex: index, Dst: hostNet(addr), Src: n.cfg.NodeIP.AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: RouteProtocol,
	}); err != nil {
		return fmt.Errorf("route to pod address %s: %w", addr, err)
	}
	return nil
}

// Detach removes the pod's interface and frees its address. It is no error if there is none.
func (n *Network) Detach(podID string) error {
	unlock := n.lockPod(podID)
	defer unlock()
	link, err := n.nl.LinkByName(HostInterface(podID))
	switch {
	case err == nil:
		if err := n.deleteLink(link); err != nil {
			return fmt.Errorf("detach pod %s: %w", podID, err)
		}
	case !isLinkNotFound(err):
		return fmt.Errorf("detach pod %s: %w", podID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pods[podID]; ok {
		n.addresses.release(a.Addr, podID)
		delete(n.pods, podID)
	}
	return nil
}

// deleteLink removes a link and, with it, its peer and its routes; a link that vanished with its pod's namespace is fine.
func (n *Network) deleteLink(link netlink.Link) error {
	err := n.nl.LinkDel(link)
	if err == nil || errors.Is(err, syscall.ENODEV) || isLinkNotFound(err) {
		return nil
	}
	return fmt.Errorf("remove interface %s: %w", link.Attrs().Name, err)
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

func anywhere() *net.IPNet { return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)} }

package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podInterface is the pod's end of its veth pair.
const podInterface = "eth0"

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

// The alias is the record of an attachment; written once the pod's end is in place, so a link without it is incomplete.
func formatAlias(podID string, addrs []netip.Addr) string {
	alias := "skep pod " + podID
	for _, addr := range addrs {
		alias += " " + addr.String()
	}
	return alias
}

func parseAlias(alias string) (podID string, addrs []netip.Addr, err error) {
	f := strings.Fields(alias)
	if len(f) < 4 || f[0] != "skep" || f[1] != "pod" {
		return "", nil, fmt.Errorf("alias %q is not a pod's", alias)
	}
	for _, text := range f[3:] {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return "", nil, fmt.Errorf("alias %q: %w", alias, err)
		}
		addrs = append(addrs, addr)
	}
	return f[2], addrs, nil
}

// Attach gives the pod whose network namespace is pinned at netnsPath its interface, addresses and bandwidth. Calling it
// again, also from a later process, repairs what is missing and returns the same addresses.
func (n *Network) Attach(podID, netnsPath string, limits Bandwidth) (Attachment, error) {
	if podID == "" || len(podID) > 128 || strings.ContainsAny(podID, " \t\n") {
		return Attachment{}, fmt.Errorf("pod id %q cannot be kept in an interface alias", podID)
	}
	unlock := n.lockPod(podID)
	defer unlock()
	pod, err := openPod(podID, netnsPath)
	if err != nil {
		return Attachment{}, err
	}
	defer pod.close()
	addrs, fresh, err := n.reserve(podID)
	if err != nil {
		return Attachment{}, err
	}
	a, err := n.connect(pod, addrs, limits)
	if err != nil {
		n.abandon(podID, addrs, fresh)
		return Attachment{}, fmt.Errorf("attach pod %s to the network: %w", podID, err)
	}
	n.mu.Lock()
	n.pods[podID], n.paths[podID] = a, netnsPath
	n.mu.Unlock()
	return a, nil
}

// reserve returns the pod's addresses, new ones if it has none. A pod keeps its first addresses, also when the host gets a
// second family.
func (n *Network) reserve(podID string) (addrs []netip.Addr, fresh bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pods[podID]; ok {
		return a.Addrs, false, nil
	}
	for _, f := range n.families {
		addr, err := f.addresses.allocate(podID)
		if err != nil {
			n.release(addrs, podID)
			return nil, true, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, true, nil
}

// release is called with mu held.
func (n *Network) release(addrs []netip.Addr, podID string) {
	for _, addr := range addrs {
		n.family(familyOf(addr)).addresses.release(addr, podID)
	}
}

// abandon undoes a first Attach that failed. A failed repair keeps the addresses: the pod may still be using them.
func (n *Network) abandon(podID string, addrs []netip.Addr, fresh bool) {
	if !fresh {
		return
	}
	if link, err := n.nl.LinkByName(HostInterface(podID)); err == nil {
		if err := n.deleteLink(link); err != nil {
			n.log.Error("a half made pod interface stays until the next start", "interface", link.Attrs().Name, "err", err)
			return // the addresses stay in use as well
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.release(addrs, podID)
}

func (n *Network) connect(pod *podEnd, addrs []netip.Addr, limits Bandwidth) (Attachment, error) {
	name := HostInterface(pod.id)
	if err := n.ensurePair(pod, name); err != nil {
		return Attachment{}, err
	}
	host, err := n.nl.LinkByName(name)
	if err != nil {
		return Attachment{}, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := n.configurePod(pod, addrs); err != nil {
		return Attachment{}, err
	}
	if err := n.configureHost(host, pod.id, addrs); err != nil {
		return Attachment{}, err
	}
	a := Attachment{Addrs: addrs, HostInterface: name, Index: host.Attrs().Index, PodMAC: podMAC(pod.id)}
	a.Shaped, a.Unlimited = n.limit(host, pod, limits)
	if err := n.nl.LinkSetAlias(host, formatAlias(pod.id, addrs)); err != nil {
		return Attachment{}, fmt.Errorf("set the alias of %s: %w", name, err)
	}
	return a, nil
}

// ensurePair makes the veth pair unless its two ends already are where they belong. An old pair whose inner end was removed
// with its namespace cannot exist; one whose inner end is in another namespace is replaced.
func (n *Network) ensurePair(pod *podEnd, name string) error {
	mac := podMAC(pod.id)
	peer, err := pod.nl.LinkByName(podInterface)
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
		if err := pod.nl.LinkDel(peer); err != nil && !isLinkNotFound(err) && !errors.Is(err, unix.ENODEV) {
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
		PeerNamespace:    netlink.NsFd(int(pod.ns)),
	}
	if err := n.nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("make interface pair %s: %w", name, err)
	}
	return nil
}

// configureHost makes the host end forward and refuse forged source addresses, and adds the pod's routes. For IPv6 the
// kernel has no filter of forged sources: the programs at the pod's interface are what refuses them.
func (n *Network) configureHost(host netlink.Link, podID string, addrs []netip.Addr) error {
	name := host.Attrs().Name
	for _, addr := range addrs {
		f := n.family(familyOf(addr))
		if err := f.prepareHostEnd(name); err != nil {
			return err
		}
	}
	if err := n.nl.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, addr := range addrs {
		f := n.family(familyOf(addr))
		if err := n.nl.NeighSet(&netlink.Neigh{
			LinkIndex: host.Attrs().Index, Family: f.id, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: podMAC(podID),
		}); err != nil {
			return fmt.Errorf("set the neighbour entry of %s: %w", addr, err)
		}
		if err := n.nl.RouteReplace(&netlink.Route{
			LinkIndex: host.Attrs().Index, Dst: hostNet(addr), Src: f.node.AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: RouteProtocol,
		}); err != nil {
			return fmt.Errorf("route to pod address %s: %w", addr, err)
		}
	}
	return nil
}

// prepareHostEnd runs before the interface is up. It accepts no router advertisements, with which a pod could become the
// host's router, and no link-local address of its own, which nothing would use.
func (f *family) prepareHostEnd(name string) error {
	if f.is4() {
		return errors.Join(f.enableForwarding(name), refuseForged(name))
	}
	return errors.Join(
		setSysctl(sysctlPath(f.id, name, "disable_ipv6"), "0"),
		setSysctl(sysctlPath(f.id, name, "accept_ra"), "0"),
		setSysctl(sysctlPath(f.id, name, "addr_gen_mode"), "1"),
		f.enableForwarding(name))
}

// refuseForged has the kernel drop packets of a pod with a source that is not its own, unless another program that checks sources
// has loosened the filter (2).
func refuseForged(name string) error {
	path := sysctlPath(netlink.FAMILY_V4, name, "rp_filter")
	if value, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(value)) == "2" {
		return nil
	}
	return setSysctl(path, "1")
}

// Detach removes the pod's interface and frees its addresses. It is no error if there is none.
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
		n.release(a.Addrs, podID)
		delete(n.pods, podID)
		delete(n.paths, podID)
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

// podEnd is an open network namespace of a pod.
type podEnd struct {
	id string
	ns netns.NsHandle
	nl *netlink.Handle
}

func openPod(podID, netnsPath string) (*podEnd, error) {
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s of pod %s: %w", netnsPath, podID, err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("enter network namespace %s of pod %s: %w", netnsPath, podID, err)
	}
	return &podEnd{id: podID, ns: ns, nl: h}, nil
}

func (p *podEnd) close() {
	p.nl.Close()
	p.ns.Close()
}

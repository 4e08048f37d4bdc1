package podnet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What all hosts of a cluster must agree on.
const (
	VXLANPort = 8472 // UDP; the one that Linux has always had, since some hypervisors swallow 4789
	vxlanID   = 83
)

// overlay is a VXLAN link of this host, which carries packets of both families between hosts' addresses of one.
type overlay struct {
	index int
	node  netip.Addr // this host's address outside
}

func overlayName(underlay int) string {
	if underlay == netlink.FAMILY_V4 {
		return "skep-vxlan4"
	}
	return "skep-vxlan6"
}

func isOverlay(link netlink.Link) bool {
	name := link.Attrs().Name
	return link.Type() == "vxlan" && (name == overlayName(netlink.FAMILY_V4) || name == overlayName(netlink.FAMILY_V6))
}

// overlayOverhead is the outer IP, UDP and VXLAN headers and the inner Ethernet header.
func overlayOverhead(underlay int) int {
	if underlay == netlink.FAMILY_V4 {
		return 20 + 8 + 8 + 14
	}
	return 40 + 8 + 8 + 14
}

// partner is a host at the other end of an overlay. All its properties follow from its address, so that hosts need not
// exchange them.
type partner struct {
	node netip.Addr
	mac  [6]byte
}

func partnerOf(node netip.Addr) partner {
	sum := sha256.Sum256(node.AsSlice())
	p := partner{node: node, mac: [6]byte{0x0e}}
	copy(p.mac[1:], sum[:])
	return p
}

// gateway is the partner's address on the overlay, as next hop to its pods: what its kernel has made from its MAC, or the
// first address of its range, which no pod has.
func (p partner) gateway(cidr netip.Prefix) netip.Addr {
	if cidr.Addr().Is4() {
		return cidr.Addr()
	}
	return linkLocal(p.mac)
}

// linkLocal is RFC 4291, appendix A.
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// adoptOverlays finds the links of an earlier process. One of another address or kind is recreated when it is needed.
func (n *Network) adoptOverlays() error {
	for _, underlay := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		link, err := n.nl.LinkByName(overlayName(underlay))
		if isLinkNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", overlayName(underlay), err)
		}
		n.overlays[underlay] = &overlay{index: link.Attrs().Index, node: addrIn(n.cfg.NodeIPs, underlay)}
	}
	return n.resize()
}

func (n *Network) overlayOf(link int) (underlay int, ok bool) {
	for underlay, o := range n.overlays {
		if o.index == link {
			return underlay, true
		}
	}
	return 0, false
}

// ensureOverlay makes the link, or corrects what differs.
func (n *Network) ensureOverlay(underlay int) error {
	node := addrIn(n.cfg.NodeIPs, underlay)
	want := n.overlayLink(underlay, node)
	name := want.Name
	link, err := n.nl.LinkByName(name)
	if err != nil && !isLinkNotFound(err) {
		return fmt.Errorf("look for %s: %w", name, err)
	}
	if err == nil && !sameOverlay(link, want) {
		if err := n.deleteLink(link); err != nil {
			return err
		}
		link = nil
	}
	if link == nil || err != nil {
		if err := n.nl.LinkAdd(want); err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) {
				return errors.New("some nodes share no link with this one, and this kernel has no VXLAN (module vxlan)")
			}
			return fmt.Errorf("make %s: %w", name, err)
		}
		if link, err = n.nl.LinkByName(name); err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
	}
	n.overlays[underlay] = &overlay{index: link.Attrs().Index, node: node}
	return n.configureOverlay(link, want.MTU)
}

func (n *Network) overlayLink(underlay int, node netip.Addr) *netlink.Vxlan {
	attrs := netlink.NewLinkAttrs()
	mac := partnerOf(node).mac
	attrs.Name, attrs.HardwareAddr = overlayName(underlay), mac[:]
	attrs.MTU = n.cfg.MTU - overlayOverhead(underlay)
	return &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vxlanID, SrcAddr: node.AsSlice(), Port: VXLANPort, Learning: false}
}

func sameOverlay(link netlink.Link, want *netlink.Vxlan) bool {
	is, ok := link.(*netlink.Vxlan)
	return ok && is.VxlanId == want.VxlanId && is.Port == want.Port && is.SrcAddr.Equal(want.SrcAddr) && !is.Learning &&
		bytes.Equal(is.HardwareAddr, want.HardwareAddr)
}

// configureOverlay gives the link an address of each family, this host's source for packets through it: answers to the host's
// own address would arrive by another interface, where filters drop them.
func (n *Network) configureOverlay(link netlink.Link, mtu int) error {
	name := link.Attrs().Name
	if link.Attrs().MTU != mtu {
		if err := n.nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("MTU of %s: %w", name, err)
		}
	}
	for _, f := range n.families {
		if err := f.prepareOverlay(name); err != nil {
			return err
		}
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, f := range n.families {
		if err := n.nl.AddrReplace(link, &netlink.Addr{IPNet: hostNet(f.base()), Flags: noDAD(f.base())}); err != nil {
			return fmt.Errorf("give %s to %s: %w", f.base(), name, err)
		}
	}
	return nil
}

func (f *family) prepareOverlay(name string) error {
	if f.is4() { // hosts may disagree on whether they share a link, so sources are not bound to one interface
		return errors.Join(f.enableForwarding(name), setSysctl(sysctlPath(f.id, name, "rp_filter"), "2"))
	}
	return errors.Join(
		setSysctl(sysctlPath(f.id, name, "disable_ipv6"), "0"),
		setSysctl(sysctlPath(f.id, name, "accept_ra"), "0"),
		setSysctl(sysctlPath(f.id, name, "accept_dad"), "0"),
		f.enableForwarding(name))
}

func (n *Network) removeOverlay(underlay int) error {
	link, err := n.nl.LinkByIndex(n.overlays[underlay].index)
	if err == nil {
		err = n.deleteLink(link)
	}
	if err != nil && !isLinkNotFound(err) {
		return err
	}
	delete(n.overlays, underlay)
	return nil
}

// syncPartners makes the forwarding and neighbour entries of every overlay those that the routes need.
func (n *Network) syncPartners(wanted map[netip.Prefix]way) error {
	var failed []error
	for underlay, o := range n.overlays {
		macs, gateways := map[netip.Addr]net.HardwareAddr{}, map[netip.Addr]net.HardwareAddr{}
		for _, w := range wanted {
			if w.underlay == underlay {
				macs[w.partner.node] = w.partner.mac[:]
				gateways[w.via] = w.partner.mac[:]
			}
		}
		failed = append(failed, n.syncNeighbours(o.index, unix.AF_BRIDGE, macs))
		for _, f := range n.families {
			failed = append(failed, n.syncNeighbours(o.index, f.id, only(f.id, gateways)))
		}
	}
	return errors.Join(failed...)
}

func only(id int, all map[netip.Addr]net.HardwareAddr) map[netip.Addr]net.HardwareAddr {
	some := map[netip.Addr]net.HardwareAddr{}
	for addr, mac := range all {
		if familyOf(addr) == id {
			some[addr] = mac
		}
	}
	return some
}

// syncNeighbours makes one of an overlay's tables as wanted: in the bridge family, which host has a MAC; in the others,
// which MAC has a gateway.
func (n *Network) syncNeighbours(link, family int, wanted map[netip.Addr]net.HardwareAddr) error {
	present, err := n.nl.NeighList(link, family)
	if err != nil {
		return fmt.Errorf("list the overlay's neighbours: %w", err)
	}
	var failed []error
	known := map[netip.Addr]bool{}
	for _, entry := range present {
		addr, ok := netip.AddrFromSlice(entry.IP)
		addr = addr.Unmap()
		if mac, want := wanted[addr]; ok && want && bytes.Equal(mac, entry.HardwareAddr) {
			known[addr] = true
			continue
		}
		if ok && (family == unix.AF_BRIDGE || entry.State&netlink.NUD_PERMANENT != 0) {
			if err := n.nl.NeighDel(&entry); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = append(failed, fmt.Errorf("remove neighbour %s of the overlay: %w", addr, err))
			}
		}
	}
	for addr, mac := range wanted {
		if known[addr] {
			continue
		}
		entry := &netlink.Neigh{LinkIndex: link, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}
		if family == unix.AF_BRIDGE {
			entry.Flags = netlink.NTF_SELF
		}
		if err := n.nl.NeighSet(entry); err != nil {
			failed = append(failed, fmt.Errorf("neighbour %s of the overlay: %w", addr, err))
		}
	}
	return errors.Join(failed...)
}

// resize sets the pods' routes to the cluster to the packet size that the overlays in use allow, if that has changed. Pods whose
// namespace only an earlier process had learn it from this host's "packet too big", at the first packet that is.
func (n *Network) resize() error {
	overhead := 0
	for underlay := range n.overlays {
		overhead = max(overhead, overlayOverhead(underlay))
	}
	n.mu.Lock()
	changed := n.overhead != overhead
	n.overhead = overhead
	n.mu.Unlock()
	if !changed {
		return nil
	}
	return n.reroutePods()
}

// reroutePods writes the routes inside the pods again.
func (n *Network) reroutePods() error {
	n.mu.Lock()
	paths := maps.Clone(n.paths)
	n.mu.Unlock()
	var failed []error
	for id, path := range paths {
		failed = append(failed, n.resizePod(id, path))
	}
	return errors.Join(failed...)
}

func (n *Network) resizePod(id, path string) error {
	unlock := n.lockPod(id)
	defer unlock()
	n.mu.Lock()
	a, ok := n.pods[id]
	n.mu.Unlock()
	if !ok {
		return nil // removed meanwhile
	}
	pod, err := openPod(id, path)
	if err != nil {
		n.log.Info("packet size of a pod's interface not changed: its namespace is gone", "pod", id, "err", err)
		return nil
	}
	defer pod.close()
	eth, err := pod.nl.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("packet size of pod %s: %w", id, err)
	}
	var failed []error
	for _, addr := range a.Addrs {
		failed = append(failed, n.routePod(pod, eth.Attrs().Index, n.family(familyOf(addr)), addr))
	}
	return errors.Join(failed...)
}

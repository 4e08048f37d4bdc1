package podpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
)

// Attach makes the pod behind a host interface reachable on the fast path, drops packets with other sources, and accounts for it.
// addrs are all that the pod has; podMAC is the link address of its own end. Calling it again repairs what is missing, takes
// over another queue at the interface (a bandwidth limit), and follows changed addresses.
func (p *Path) Attach(hostIfindex int, addrs []netip.Addr, podMAC net.HardwareAddr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry, host, err := podEntry(hostIfindex, podMAC)
	if err != nil {
		return err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap().WithZone("")
	}
	// The addresses first: the program drops what comes from any other.
	for _, addr := range addrs {
		if !addr.IsValid() || addr.IsUnspecified() {
			return fmt.Errorf("pod behind %s: %v is no address", host.Name, addr)
		}
		if err := p.maps.pods.Put(toNetwork(addr), entry); err != nil {
			return fmt.Errorf("pod behind %s: %w", host.Name, err)
		}
	}
	for _, addr := range p.pods[hostIfindex] {
		if !slices.Contains(addrs, addr) {
			if err := p.forget(hostIfindex, addr); err != nil {
				return err
			}
		}
	}
	p.pods[hostIfindex] = slices.Clone(addrs)
	if err := admitTranslated(host.Name); err != nil {
		return err
	}
	for _, at := range p.podPlaces(hostIfindex) {
		if err := p.hook.attach(at); err != nil {
			return fmt.Errorf("interface %s: %w", host.Name, err)
		}
	}
	return nil
}

// podEntry describes the pod to the programs.
func podEntry(index int, podMAC net.HardwareAddr) (bpf.PodPod, *netlink.LinkAttrs, error) {
	entry := bpf.PodPod{Ifindex: uint32(index)}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return entry, nil, fmt.Errorf("host interface %d of a pod: %w", index, err)
	}
	if len(podMAC) != len(entry.Mac) || len(link.Attrs().HardwareAddr) != len(entry.HostMac) {
		return entry, nil, fmt.Errorf("host interface %s of a pod: link addresses %s and %s are not Ethernet's", link.Attrs().Name, podMAC, link.Attrs().HardwareAddr)
	}
	copy(entry.Mac[:], podMAC)
	copy(entry.HostMac[:], link.Attrs().HardwareAddr)
	queued, err := hasQueue(link)
	if queued {
		entry.Flags |= bpf.PodPodFlagsPOD_QUEUED
	}
	return entry, link.Attrs(), err
}

// hasQueue says whether the pod's interface has a queue, which packets to it must not bypass.
func hasQueue(link netlink.Link) (bool, error) {
	qdiscs, err := netlink.QdiscList(link)
	if err != nil {
		return false, fmt.Errorf("queues of %s: %w", link.Attrs().Name, err)
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Type() != "noqueue" {
			return true, nil
		}
	}
	return false, nil
}

// admitTranslated lets the host's stack accept packets from the pod's interface whose source the program has set to a service's
// address, to which no route leads by that interface. Sources that the pod itself forges are dropped before.
func admitTranslated(name string) error {
	for setting, value := range map[string]string{"rp_filter": "2", "accept_local": "1"} {
		path := "/proc/sys/net/ipv4/conf/" + name + "/" + setting
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", path, value, err)
		}
	}
	return nil
}

// Detach forgets the pod behind a host interface, which may no longer exist. It is no error if there is none.
func (p *Path) Detach(hostIfindex int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.detach(hostIfindex)
}

func (p *Path) detach(index int) error {
	failed := []error{p.hook.detach(index)}
	for _, addr := range p.pods[index] {
		failed = append(failed, p.forget(index, addr))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("detach the pod behind interface %d: %w", index, err)
	}
	delete(p.pods, index)
	return nil
}

// forget removes an address unless another pod has it by now.
func (p *Path) forget(index int, addr netip.Addr) error {
	entry, ok, err := p.maps.pods.Get(toNetwork(addr))
	if err != nil || !ok || entry.Ifindex != uint32(index) {
		return err
	}
	if err := p.maps.pods.Delete(toNetwork(addr)); err != nil {
		return err
	}
	return p.forgetTraffic(addr)
}

// adopt takes over the pods that an earlier process left in the maps. stale: they are of another network namespace.
func (p *Path) adopt(stale bool) error {
	entries, err := p.maps.pods.All()
	if err != nil {
		return err
	}
	for key, entry := range entries {
		p.pods[int(entry.Ifindex)] = append(p.pods[int(entry.Ifindex)], bpf.FromNetwork(key.Word))
	}
	for index := range p.pods {
		link, err := netlink.LinkByIndex(index)
		if err != nil && !isLinkNotFound(err) {
			return fmt.Errorf("host interface %d of a pod: %w", index, err)
		}
		if stale || err != nil || link.Type() != "veth" {
			if err := p.detach(index); err != nil {
				return err
			}
			continue
		}
		for _, at := range p.podPlaces(index) {
			if err := p.hook.attach(at); err != nil {
				return fmt.Errorf("interface %s: %w", link.Attrs().Name, err)
			}
		}
	}
	return nil
}

// SetUplinks makes the interfaces that other nodes' and outside packets arrive at exactly those, by name. The first is where
// answers to this host itself are handed to its stack. At others, which may no longer exist, packets with a pod's or a node's
// address that cannot arrive there are dropped.
func (p *Path) SetUplinks(names, others []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, overlays := map[int]bool{}, map[uint32]bool{}
	var first uint32
	var mac [6]uint8 // none where frames have no address
	for i, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("uplink %s: %w", name, err)
		}
		wanted[link.Attrs().Index] = true
		overlays[uint32(link.Attrs().Index)] = link.Type() == "vxlan"
		if i == 0 {
			first = uint32(link.Attrs().Index)
			copy(mac[:], link.Attrs().HardwareAddr)
		}
		for _, at := range p.uplinkPlaces(link.Attrs().Index) {
			if err := p.hook.attach(at); err != nil {
				return fmt.Errorf("uplink %s: %w", name, err)
			}
		}
	}
	if err := p.setOverlays(overlays); err != nil {
		return err
	}
	if err := p.guard(others, wanted); err != nil {
		return err
	}
	config, _, err := p.maps.config.Get(0)
	if err != nil {
		return err
	}
	config.Uplink, config.UplinkMac = first, mac
	if err := p.maps.config.Put(0, config); err != nil {
		return err
	}
	return p.sweep(wanted)
}

// guard makes the program for other interfaces run there, alone, and adds them to those wanted.
func (p *Path) guard(names []string, wanted map[int]bool) error {
	before := p.others
	p.others = map[int]bool{}
	var failed []error
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if isLinkNotFound(err) {
			continue
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("interface %s: %w", name, err))
			continue
		}
		index := link.Attrs().Index
		if wanted[index] || p.pods[index] != nil {
			continue
		}
		if !before[index] { // it may have been an uplink
			failed = append(failed, p.hook.detach(index))
		}
		for _, at := range p.otherPlaces(index) {
			if err := p.hook.attach(at); err != nil {
				failed = append(failed, fmt.Errorf("interface %s: %w", name, err))
			}
		}
		wanted[index], p.others[index] = true, true
	}
	return errors.Join(failed...)
}

// setOverlays records for the programs which uplinks are overlays.
func (p *Path) setOverlays(overlays map[uint32]bool) error {
	present, err := p.maps.overlays.All()
	if err != nil {
		return err
	}
	var failed []error
	for index, is := range overlays {
		if _, known := present[index]; is && !known {
			failed = append(failed, p.maps.overlays.Put(index, 1))
		}
	}
	for index := range present {
		if !overlays[index] {
			failed = append(failed, p.maps.overlays.Delete(index))
		}
	}
	return errors.Join(failed...)
}

// sweep detaches programs from interfaces that are neither a pod's nor an uplink, and those that were attached the other way.
func (p *Path) sweep(uplinks map[int]bool) error {
	attached, err := p.hook.interfaces()
	if err != nil {
		return err
	}
	var failed []error
	for _, index := range attached {
		if p.pods[index] == nil && !uplinks[index] {
			failed = append(failed, p.hook.detach(index))
		}
	}
	other := p.otherWay()
	attached, err = other.interfaces()
	if err != nil {
		return err
	}
	for _, index := range attached {
		failed = append(failed, other.detach(index))
	}
	return errors.Join(failed...)
}

func (p *Path) otherWay() attacher {
	if _, yes := p.hook.(tcx); yes {
		return clsact{}
	}
	return tcx{dir: p.options.PinDir}
}

// namespaceCookie distinguishes network namespaces for as long as the kernel runs.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("cookie of this network namespace: %w", err)
	}
	return cookie, nil
}

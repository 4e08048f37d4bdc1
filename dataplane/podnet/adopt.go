package podnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// adopt recovers pods and addresses from the aliases of this host's links. A link of Skep's without a readable alias is incomplete,
// since the process that made it ended, and is removed: nothing uses it yet.
func (n *Network) adopt() error {
	links, err := n.nl.LinkList()
	if err != nil {
		return err
	}
	shaped, err := n.shapedLinks()
	if err != nil {
		return err
	}
	newest := 0
	for _, link := range links {
		attrs := link.Attrs()
		if link.Type() != "veth" || !isHostInterface(attrs.Name) {
			continue
		}
		podID, addrs, err := n.adoptable(link)
		if err != nil {
			n.log.Warn("removing a pod interface that no pod can use", "interface", attrs.Name, "err", err)
			if err := n.deleteLink(link); err != nil {
				return err
			}
			continue
		}
		n.pods[podID] = Attachment{
			Addrs: addrs, HostInterface: attrs.Name, Index: attrs.Index, PodMAC: podMAC(podID), Shaped: shaped[attrs.Index],
		}
		if attrs.Index > newest {
			newest = attrs.Index
			for _, addr := range addrs {
				n.family(familyOf(addr)).addresses.continueAfter(addr)
			}
		}
		if err := n.configureHost(link, podID, addrs); err != nil {
			return fmt.Errorf("pod %s: %w", podID, err)
		}
	}
	return nil
}

// adoptable returns the addresses that a link's alias records. Those of a family that this host no longer has are left out; a pod
// that has no other is not reachable any more.
func (n *Network) adoptable(link netlink.Link) (podID string, addrs []netip.Addr, err error) {
	podID, recorded, err := parseAlias(link.Attrs().Alias)
	if err != nil {
		return "", nil, err
	}
	if link.Attrs().Name != HostInterface(podID) {
		return "", nil, fmt.Errorf("alias names pod %q, which has another interface", podID)
	}
	for _, addr := range recorded {
		f := n.family(familyOf(addr))
		if f == nil {
			continue
		}
		if err := f.addresses.reserve(addr, podID); err != nil {
			n.release(addrs, podID)
			return "", nil, err
		}
		addrs = append(addrs, addr)
	}
	if len(addrs) == 0 {
		return "", nil, errors.New("this host has no pod range of its address family")
	}
	return podID, addrs, nil
}

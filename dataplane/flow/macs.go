package flow

import (
	"errors"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/bpf"
)

// firstMACs is FIRST_MACS in bpf/recipient.h: the number of elements of skep_first_macs.
const firstMACs = 64

// dumpTries is how often the interfaces are listed while they change.
const dumpTries = 5

// addMACs makes the program serve frames for these link addresses, those of an uplink before it runs there. What it served before
// it goes on to serve, until dropOtherMACs.
func (f *Flows) addMACs(macs []bpf.UplinkMac) error {
	var firsts [firstMACs]bpf.UplinkMac
	for _, mac := range macs {
		if err := f.maps.macs.Put(mac, 0); err != nil {
			return err
		}
		if first := &firsts[mac.Ifindex%firstMACs]; first.Ifindex == 0 {
			*first = mac
		}
	}
	for slot, first := range firsts {
		if err := f.maps.firstMACs.Put(uint32(slot), first); err != nil {
			return err
		}
	}
	return nil
}

// dropOtherMACs makes it serve frames for no others.
func (f *Flows) dropOtherMACs(macs []bpf.UplinkMac) error {
	present, err := f.maps.macs.All()
	if err != nil {
		return err
	}
	for mac := range present {
		if slices.Contains(macs, mac) {
			continue
		}
		if err := f.maps.macs.Delete(mac); err != nil {
			return err
		}
	}
	return nil
}

// macsOf are the link addresses at which the uplink is sent frames, the one it has first. Frames for a bond arrive at its members, whose
// drivers run the program; any of them may be sent frames by its own address, and lend the bond that when another member fails,
// also while no agent runs. A bridge takes frames by the addresses of its ports.
func macsOf(u uplink) ([]bpf.UplinkMac, error) {
	link, err := netlink.LinkByIndex(u.index)
	if err != nil {
		return nil, err
	}
	if !hasMembers(link) {
		return macsWith(u, link, nil), nil
	}
	members, err := membersOf(u.index)
	return macsWith(u, link, members), err
}

func hasMembers(link netlink.Link) bool { return link.Type() == "bond" || link.Type() == "bridge" }

// macsWith is what macsOf returns for an interface with these members.
func macsWith(u uplink, link netlink.Link, members []netlink.Link) (macs []bpf.UplinkMac) {
	at, octets := []int{u.index}, [][6]uint8{u.mac}
	for _, m := range members {
		for _, addr := range []net.HardwareAddr{m.Attrs().HardwareAddr, m.Attrs().PermHWAddr} {
			if len(addr) == len(u.mac) {
				octets = append(octets, [6]uint8(addr))
			}
		}
		if link.Type() == "bond" {
			at = append(at, m.Attrs().Index)
		}
	}
	for _, index := range at {
		for _, o := range octets {
			macs = append(macs, bpf.UplinkMac{Ifindex: uint32(index), Octets: o})
		}
	}
	return macs
}

func membersOf(index int) (members []netlink.Link, err error) {
	var links []netlink.Link
	for range dumpTries {
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	for _, link := range links {
		if link.Attrs().MasterIndex == index {
			members = append(members, link)
		}
	}
	return members, err
}

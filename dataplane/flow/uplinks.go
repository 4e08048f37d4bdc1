package flow

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// Uplink is the state of an interface that packets from outside arrive at.
type Uplink struct {
	Name string
	XDP  string // "native", "generic", or "none": see Err
	Err  error  // why packets from outside are not served there
}

// notAttached is the XDP of an Uplink that does not run the program.
const notAttached = "none"

// equal compares what is logged.
func (u Uplink) equal(o Uplink) bool {
	return u.Name == o.Name && u.XDP == o.XDP && fmt.Sprint(u.Err) == fmt.Sprint(o.Err)
}

// uplink is an interface as it was found. A change of any field is one that neighbours are notified of.
type uplink struct {
	name  string
	index int
	mac   [6]uint8
	mtu   int
	up    bool
}

func findUplink(name string) (uplink, error) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return uplink{}, errors.New("there is no interface of that name")
	}
	u := uplink{name: name, index: device.Index, mtu: device.MTU, up: device.Flags&net.FlagUp != 0}
	if copy(u.mac[:], device.HardwareAddr) != len(u.mac) {
		return u, errors.New("it has no Ethernet address: the program would not understand its packets")
	}
	return u, nil
}

// SetUplinks makes the program run at exactly these interfaces, and follows changes of theirs: call it when an interface, its
// link address, MTU or state changes. An interface at which it cannot run does not affect others: Uplinks says why, and the next
// call tries again. It returns an error if a write to the maps fails.
func (f *Flows) SetUplinks(names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	present := map[int]bool{}
	found, states := make([]uplink, len(names)), make([]Uplink, len(names))
	var macs []bpf.UplinkMac
	for i, name := range names {
		u, err := findUplink(name)
		present[u.index] = true
		var at []bpf.UplinkMac
		if err == nil {
			at, err = macsOf(u)
		}
		found[i], states[i], macs = u, Uplink{Name: name, XDP: notAttached, Err: err}, append(macs, at...)
	}
	if err := f.addMACs(macs); err != nil {
		return err
	}
	var attached []uplink
	for i, u := range found {
		state := &states[i]
		if state.Err == nil {
			state.Err = f.describe(u)
		}
		if state.Err == nil {
			state.XDP, state.Err = f.attachTo(u)
		}
		if state.Err == nil {
			attached = append(attached, u)
		}
	}
	f.logChanges(states)
	f.uplinks, f.states = attached, states
	return errors.Join(f.forgetOthers(present), f.detachFrom(func(index int) bool { return !present[index] }), f.dropOtherMACs(macs), f.announcer.follow(attached))
}

// SetOverlays names the interfaces besides uplinks through which pods of other nodes are reached, each with addresses of this
// node's own: packets that SNAT sends through one have those as source. The pod path has to be attached there: it undoes the translation.
func (f *Flows) SetOverlays(names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.overlays
	f.overlays = map[int]bool{}
	for _, name := range names {
		index, record, err := findOverlay(name)
		if err != nil {
			continue // removed meanwhile: nothing is sent through it
		}
		if err := f.maps.uplinks.Put(uint32(index), record); err != nil {
			return err
		}
		f.overlays[index] = true
	}
	for index := range before {
		if f.overlays[index] || slices.ContainsFunc(f.uplinks, func(u uplink) bool { return u.index == index }) {
			continue
		}
		if err := f.maps.uplinks.Delete(uint32(index)); err != nil {
			return err
		}
	}
	return nil
}

func findOverlay(name string) (int, bpf.UplinkUplink, error) {
	record := bpf.UplinkUplink{Overlay: 1}
	device, err := net.InterfaceByName(name)
	if err != nil {
		return 0, record, err
	}
	addrs, err := device.Addrs()
	if err != nil {
		return 0, record, err
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			return 0, record, err
		}
		switch addr := prefix.Addr(); {
		case addr.Is4():
			record.Ip4.Word = bpf.ToNetwork(addr)
		case !addr.IsLinkLocalUnicast():
			record.Ip6.Word = bpf.ToNetwork(addr)
		}
	}
	return device.Index, record, nil
}

// Uplinks are the interfaces of the last SetUplinks.
func (f *Flows) Uplinks() []Uplink {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.states)
}

// logChanges logs the uplinks whose state is new.
func (f *Flows) logChanges(states []Uplink) {
	for _, s := range states {
		if slices.ContainsFunc(f.states, s.equal) {
			continue
		}
		if s.Err != nil {
			f.log.Error("services are not served to clients outside at this uplink", "uplink", s.Name, "err", s.Err)
			continue
		}
		f.log.Info("packets from outside", "uplink", s.Name, "xdp", s.XDP)
	}
}

// describe writes the record of the uplink that the program reads.
func (f *Flows) describe(u uplink) error {
	record := f.record
	record.Mac = u.mac
	return f.maps.uplinks.Put(uint32(u.index), record)
}

// recordOf is what is the same at every uplink.
func recordOf(o Options) (record bpf.UplinkUplink, err error) {
	for _, addr := range o.NodeIPs {
		addr = addr.Unmap()
		switch {
		case addr.Is4():
			record.Ip4.Word = bpf.ToNetwork(addr)
		case addr.Is6():
			record.Ip6.Word = bpf.ToNetwork(addr)
		default:
			return record, fmt.Errorf("flows: %q is no address of this node", addr)
		}
	}
	return record, nil
}

func (f *Flows) forgetOthers(present map[int]bool) error {
	described, err := f.maps.uplinks.All()
	if err != nil {
		return err
	}
	for index := range described {
		if present[int(index)] || f.overlays[int(index)] {
			continue
		}
		if err := f.maps.uplinks.Delete(index); err != nil {
			return err
		}
	}
	return nil
}

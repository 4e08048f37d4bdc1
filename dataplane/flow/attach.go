package flow

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/pinned"
)

// How the program gets packets: in the driver, or, slower, once the kernel has made its own structure of them.
const (
	modeNative   = "native"
	modeGeneric  = "generic"  // as asked for
	modeFallback = "fallback" // generic, because the driver refused
)

// linkPin names a link by its interface and mode. The driver's refusal depends on the MTU: at another, it is tried again.
func (f *Flows) linkPin(u uplink, mode string) string {
	name := fmt.Sprintf("%d-%s", u.index, mode)
	if mode == modeFallback {
		name += fmt.Sprintf("-%d", u.mtu)
	}
	return pinned.LinkPath(f.options.PinDir, name)
}

// attachTo updates the existing link, if it has a wanted mode, and else attaches a new one. It returns Uplink.XDP.
func (f *Flows) attachTo(u uplink) (xdp string, err error) {
	wanted := []string{modeNative, modeFallback}
	if f.options.GenericXDP {
		wanted = []string{modeGeneric}
	}
	for _, mode := range wanted {
		if done, err := pinned.Adopt(f.linkPin(u, mode), f.program, u.has); err != nil {
			return notAttached, err
		} else if done {
			return shown(mode), nil
		}
	}
	// Links of another mode, and of a removed interface whose index is used again.
	if err := f.detachFrom(func(index int) bool { return index == u.index }); err != nil {
		return notAttached, err
	}
	mode, err := f.attachAnew(u)
	if err != nil {
		return notAttached, occupied(err)
	}
	return shown(mode), nil
}

func (f *Flows) attachAnew(u uplink) (mode string, err error) {
	attach := func(mode string, flags link.XDPAttachFlags) error {
		return pinned.Attach(f.linkPin(u, mode), f.program, u.has, func() (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{Program: f.program, Interface: u.index, Flags: flags})
		})
	}
	if f.options.GenericXDP {
		return modeGeneric, attach(modeGeneric, link.XDPGenericMode)
	}
	refusal := attach(modeNative, link.XDPDriverMode)
	if refusal == nil || isOccupied(refusal) {
		return modeNative, refusal
	}
	if err := attach(modeFallback, link.XDPGenericMode); err != nil {
		return modeFallback, err
	}
	f.log.Warn("the driver has no XDP of its own, or not for this interface's settings: packets go through generic XDP, which costs more",
		"uplink", u.name, "mtu", u.mtu, "reason", refusal)
	return modeFallback, nil
}

// has says whether a link is at the uplink.
func (u uplink) has(l *link.Info) bool {
	xdp := l.XDP()
	return xdp != nil && int(xdp.Ifindex) == u.index
}

func shown(mode string) string {
	if mode == modeFallback {
		return modeGeneric
	}
	return mode
}

func isOccupied(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

func occupied(err error) error {
	if isOccupied(err) {
		return fmt.Errorf("another tool's XDP program is there (see `bpftool net`): detach it, or name another uplink: %w", err)
	}
	return fmt.Errorf("attach XDP: %w", err)
}

// detachFrom detaches the program from the interfaces for which wanted is true.
func (f *Flows) detachFrom(wanted func(index int) bool) error {
	pins, err := pinned.LinksByInterface(f.options.PinDir)
	if err != nil {
		return err
	}
	for index, pins := range pins {
		if !wanted(index) {
			continue
		}
		for _, pin := range pins {
			if err := pinned.Detach(pin); err != nil {
				return err
			}
		}
	}
	return nil
}

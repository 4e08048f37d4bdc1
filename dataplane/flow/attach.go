package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// How the program sees packets: in the driver, or, slower, once the kernel has made its own structure of them.
const (
	modeNative   = "native"
	modeGeneric  = "generic"  // as asked for
	modeFallback = "fallback" // generic, because the driver refused
)

// linkPin names a link by its interface and mode. The driver's refusal depends on the MTU: at another, it is asked again.
func (f *Flows) linkPin(u uplink, mode string) string {
	name := fmt.Sprintf("%d-%s", u.index, mode)
	if mode == modeFallback {
		name += fmt.Sprintf("-%d", u.mtu)
	}
	return filepath.Join(f.options.PinDir, linkPins, name)
}

// attachTo updates the link that is there, if it has a mode asked for, and else attaches a new one. It returns what Uplink
// calls XDP.
func (f *Flows) attachTo(u uplink) (xdp string, err error) {
	wanted := []string{modeNative, modeFallback}
	if f.options.GenericXDP {
		wanted = []string{modeGeneric}
	}
	for _, mode := range wanted {
		if done, err := adopt(f.linkPin(u, mode), u, f.program); err != nil {
			return notAttached, err
		} else if done {
			return shown(mode), nil
		}
	}
	others, err := f.linksOf(func(index int) bool { return index == u.index })
	if err != nil {
		return notAttached, err
	}
	for _, pin := range others {
		if err := detach(pin); err != nil {
			return notAttached, err
		}
	}
	mode, err := f.attachAnew(u)
	if err != nil {
		return notAttached, occupied(err)
	}
	return shown(mode), nil
}

func (f *Flows) attachAnew(u uplink) (mode string, err error) {
	if f.options.GenericXDP {
		return modeGeneric, attachNew(f.linkPin(u, modeGeneric), u, f.program, link.XDPGenericMode)
	}
	refusal := attachNew(f.linkPin(u, modeNative), u, f.program, link.XDPDriverMode)
	if refusal == nil || isOccupied(refusal) {
		return modeNative, refusal
	}
	if err := attachNew(f.linkPin(u, modeFallback), u, f.program, link.XDPGenericMode); err != nil {
		return modeFallback, err
	}
	f.log.Warn("the driver has no XDP of its own, or not for this interface's settings: packets go through generic XDP, which costs more",
		"uplink", u.name, "mtu", u.mtu, "reason", refusal)
	return modeFallback, nil
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

// adopt makes a pinned link run the program. done is false if there is none, or its interface is gone.
func adopt(pin string, u uplink, program *ebpf.Program) (done bool, err error) {
	pinned, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open pinned link: %w", err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return false, err
	}
	if xdp := info.XDP(); xdp == nil || int(xdp.Ifindex) != u.index {
		return false, os.Remove(pin) // the interface is gone, its index used again
	}
	return true, upgrade(pinned, info.Program, program)
}

// upgrade replaces a link's program in place, which no packet falls between, unless it runs the same code over the same maps.
func upgrade(l link.Link, running ebpf.ProgramID, program *ebpf.Program) error {
	old, err := ebpf.NewProgramFromID(running)
	if err != nil {
		return fmt.Errorf("open running program: %w", err)
	}
	defer old.Close()
	same, err := sameProgram(old, program)
	if err != nil || same {
		return err
	}
	return l.Update(program)
}

func sameProgram(a, b *ebpf.Program) (bool, error) {
	infoA, err := a.Info()
	if err != nil {
		return false, err
	}
	infoB, err := b.Info()
	if err != nil {
		return false, err
	}
	mapsA, _ := infoA.MapIDs()
	mapsB, _ := infoB.MapIDs()
	slices.Sort(mapsA)
	slices.Sort(mapsB)
	return infoA.Tag == infoB.Tag && slices.Equal(mapsA, mapsB), nil
}

func attachNew(pin string, u uplink, program *ebpf.Program, mode link.XDPAttachFlags) error {
	fresh, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: u.index, Flags: mode})
	if err != nil {
		return err
	}
	defer fresh.Close()
	return replacePin(pin, fresh.Pin)
}

// detach removes a pinned link and its program from the interface. It succeeds if there is none.
func detach(pin string) error {
	pinned, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	defer pinned.Close()
	// Another process may hold the link open: unpinning alone would leave the program attached.
	if err := pinned.Detach(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach %s: %w", pin, err)
	}
	return os.Remove(pin)
}

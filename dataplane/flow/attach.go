package flow

import (
	"errors"
	"fmt"
	"net"
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

// uplink is an interface that packets from outside arrive at.
type uplink struct {
	name  string
	index int
	mac   [6]uint8
}

func findUplinks(names []string) ([]uplink, error) {
	var uplinks []uplink
	for _, name := range names {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("uplink %s: %w", name, err)
		}
		u := uplink{name: name, index: device.Index}
		if copy(u.mac[:], device.HardwareAddr) != len(u.mac) {
			return nil, fmt.Errorf("uplink %s has no Ethernet address: XDP at it would not understand its packets", name)
		}
		uplinks = append(uplinks, u)
	}
	return uplinks, nil
}

func (f *Flows) linkPin(u uplink, mode string) string {
	return filepath.Join(f.options.PinDir, linkPins, fmt.Sprintf("%d-%s", u.index, mode))
}

func (f *Flows) attach(program *ebpf.Program) error {
	for _, u := range f.uplinks {
		mode, err := f.attachTo(u, program)
		if err != nil {
			return fmt.Errorf("attach XDP to uplink %s: %w", u.name, err)
		}
		f.log.Info("packets from outside", "uplink", u.name, "xdp", mode)
	}
	return nil
}

// attachTo updates the link that is there, if it has a mode asked for, and else attaches a new one.
func (f *Flows) attachTo(u uplink, program *ebpf.Program) (mode string, err error) {
	wanted, others := []string{modeNative, modeFallback}, []string{modeGeneric}
	if f.options.GenericXDP {
		wanted, others = others, wanted
	}
	for _, mode := range wanted {
		if done, err := adopt(f.linkPin(u, mode), u, program); done || err != nil {
			return mode, err
		}
	}
	for _, mode := range others {
		if err := detach(f.linkPin(u, mode)); err != nil {
			return "", err
		}
	}
	if f.options.GenericXDP {
		return modeGeneric, occupied(attachNew(f.linkPin(u, modeGeneric), u, program, link.XDPGenericMode))
	}
	err = attachNew(f.linkPin(u, modeNative), u, program, link.XDPDriverMode)
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return modeNative, occupied(err)
	}
	f.log.Warn("the driver has no XDP of its own, or not for this interface's settings: packets go through generic XDP, which costs more",
		"uplink", u.name, "reason", err)
	return modeFallback, occupied(attachNew(f.linkPin(u, modeFallback), u, program, link.XDPGenericMode))
}

func occupied(err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another tool's XDP program is there (see `bpftool net`): detach it, or name another uplink: %w", err)
	}
	return err
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

// detachOthers removes the program from interfaces that are no uplinks any more.
func (f *Flows) detachOthers() error {
	folder := filepath.Join(f.options.PinDir, linkPins)
	pins, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	for _, pin := range pins {
		path := filepath.Join(folder, pin.Name())
		wanted := slices.ContainsFunc(f.uplinks, func(u uplink) bool {
			return path == f.linkPin(u, modeNative) || path == f.linkPin(u, modeGeneric) || path == f.linkPin(u, modeFallback)
		})
		if wanted {
			continue
		}
		if err := detach(path); err != nil {
			return err
		}
	}
	return nil
}

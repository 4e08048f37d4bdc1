package podpath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/pinned"
)

// place is where one program runs.
type place struct {
	index   int // of the interface
	egress  bool
	name    string // of the program
	program *ebpf.Program
}

func (p *Path) podPlaces(index int) []place {
	return []place{
		// To the pod first: no packet is translated whose answer could not be.
		{index: index, egress: true, name: "skep_to_pod", program: p.programs.SkepToPod},
		{index: index, name: "skep_from_pod", program: p.programs.SkepFromPod},
	}
}

func (p *Path) uplinkPlaces(index int) []place {
	return []place{
		{index: index, egress: true, name: "skep_to_uplink", program: p.programs.SkepToUplink},
		{index: index, name: "skep_from_uplink", program: p.programs.SkepFromUplink},
	}
}

// otherPlaces are the places at interfaces that lead to no pod and to no node.
func (p *Path) otherPlaces(index int) []place {
	return []place{{index: index, name: "skep_from_other", program: p.programs.SkepFromOther}}
}

// attacher is one of the kernel's two ways to run a program at an interface.
type attacher interface {
	name() string
	// attach makes the place run its program: nothing changes if it does already, and another program is replaced
	// in one step.
	attach(place) error
	// detach detaches this package's programs from an interface, if there are any; the interface may not exist.
	detach(index int) error
	// interfaces lists those that have programs of this package.
	interfaces() ([]int, error)
}

func newAttacher(o Options) (attacher, error) {
	if o.Clsact {
		return clsact{}, nil
	}
	err := haveTCX()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return clsact{}, nil
	}
	return tcx{dir: o.PinDir}, err
}

// haveTCX tries to attach to an interface that cannot exist: the error says whether the kernel lacks tcx or the interface.
func haveTCX() error {
	probe, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: verdictOnly()})
	if err != nil {
		return fmt.Errorf("load a program that asks for tcx: %w", err)
	}
	defer probe.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: probe, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return errors.Join(l.Close(), errors.New("the kernel attached a program to an interface that does not exist"))
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// tcx attaches through links, which last as long as their pins: one for each interface and program, in the pin folder dir.
type tcx struct{ dir string }

func (tcx) name() string { return "tcx" }

func attachType(p place) ebpf.AttachType {
	if p.egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func pinName(p place) string { return fmt.Sprintf("%d-%s", p.index, p.name) }

func (t tcx) attach(p place) error {
	here := func(l *link.Info) bool {
		at := l.TCX()
		return at != nil && int(at.Ifindex) == p.index
	}
	err := pinned.Attach(pinned.LinkPath(t.dir, pinName(p)), p.program, here, func() (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Interface: p.index, Program: p.program, Attach: attachType(p)})
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", p.name, err)
	}
	return nil
}

func (t tcx) interfaces() ([]int, error) {
	pins, err := pinned.LinksByInterface(t.dir)
	return slices.Collect(maps.Keys(pins)), err
}

func (t tcx) detach(index int) error {
	pins, err := pinned.LinksByInterface(t.dir)
	failed := []error{err}
	for _, pin := range pins[index] {
		failed = append(failed, pinned.Detach(pin))
	}
	return errors.Join(failed...)
}

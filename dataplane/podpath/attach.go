package podpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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
		// To the pod first: nothing is translated whose answer could not be.
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

// attacher is one of the kernel's two ways to run a program at an interface.
type attacher interface {
	name() string
	// attach makes the place run its program. One that does already is left alone; one that runs another gets this
	// one in a single step.
	attach(place) error
	// detach takes our programs off an interface, if there are any; the interface may be gone.
	detach(index int) error
	// interfaces lists those that have programs of ours.
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
	return tcx{dir: filepath.Join(o.PinDir, linkPins)}, err
}

// haveTCX asks the kernel by attaching to an interface that cannot exist: it says which of the two is unknown to it.
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

// tcx attaches through links, which live as long as their pins.
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
	pin := filepath.Join(t.dir, pinName(p))
	pinned, err := link.LoadPinnedLink(pin, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	if err == nil {
		defer pinned.Close()
		at, err := indexOf(pinned)
		if err != nil {
			return err
		}
		if at == p.index {
			return upgrade(pinned, p.program)
		}
	}
	fresh, err := link.AttachTCX(link.TCXOptions{Interface: p.index, Program: p.program, Attach: attachType(p)})
	if err != nil {
		return fmt.Errorf("attach %s: %w", p.name, err)
	}
	defer fresh.Close()
	// The new pin replaces one whose interface is gone in one rename; until then the link lives by its descriptor.
	unfinished := pin + "_next"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fresh.Pin(unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, pin)
}

// indexOf is 0 for a link whose interface is gone.
func indexOf(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	at := info.TCX()
	if at == nil {
		return 0, errors.New("the pinned link is not at an interface")
	}
	return int(at.Ifindex), nil
}

// upgrade replaces a link's program in place, which no packet can fall between, unless it runs the same code over the same
// maps.
func upgrade(l link.Link, program *ebpf.Program) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	same, err := runs(info.Program, program)
	if err != nil || same {
		return err
	}
	return l.Update(program)
}

// runs says whether the running program of that id is the same as one that was just loaded.
func runs(id ebpf.ProgramID, program *ebpf.Program) (bool, error) {
	running, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false, fmt.Errorf("open running program: %w", err)
	}
	defer running.Close()
	a, err := running.Info()
	if err != nil {
		return false, err
	}
	b, err := program.Info()
	if err != nil {
		return false, err
	}
	mapsA, _ := a.MapIDs()
	mapsB, _ := b.MapIDs()
	slices.Sort(mapsA)
	slices.Sort(mapsB)
	return a.Tag == b.Tag && slices.Equal(mapsA, mapsB), nil
}

func (t tcx) pins() (pins map[int][]string, err error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	pins = map[int][]string{}
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "-")
		index, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("pinned link %s is not this package's", filepath.Join(t.dir, entry.Name()))
		}
		pins[index] = append(pins[index], filepath.Join(t.dir, entry.Name()))
	}
	return pins, nil
}

func (t tcx) interfaces() (indexes []int, err error) {
	pins, err := t.pins()
	for index := range pins {
		indexes = append(indexes, index)
	}
	return indexes, err
}

func (t tcx) detach(index int) error {
	pins, err := t.pins()
	if err != nil {
		return err
	}
	var failed []error
	for _, pin := range pins[index] {
		failed = append(failed, unpin(pin))
	}
	return errors.Join(failed...)
}

// unpin detaches before it unpins: another process may hold the link open.
func unpin(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s: %w", pin, err)
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

package podpath

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/pinned"
)

// Priority and handle of Skep's filters: those of other programs at the hook differ and are not changed.
const (
	filterPriority = 83
	filterHandle   = 1
)

// clsact attaches through filters of a clsact qdisc, which last as long as their interface. For kernels before 6.6.
type clsact struct{}

func (clsact) name() string { return "clsact" }

func verdictOnly() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}
}

func parentOf(egress bool) uint32 {
	if egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func qdiscOf(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
}

func (clsact) attach(p place) error {
	if err := netlink.QdiscAdd(qdiscOf(p.index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a clsact qdisc: %w", err)
	}
	present, err := filtersOf(p.index, p.egress)
	if err != nil {
		return err
	}
	for _, f := range present {
		same, err := pinned.Runs(ebpf.ProgramID(f.Id), p.program)
		if err != nil {
			return err
		}
		if same {
			return nil
		}
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: p.index,
			Parent:    parentOf(p.egress),
			Handle:    filterHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  filterPriority,
		},
		Fd:           p.program.FD(),
		Name:         p.name,
		DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", p.name, err)
	}
	return nil
}

// filtersOf lists Skep's filters at one hook of an interface: none if the interface does not exist.
func filtersOf(index int, egress bool) (ours []*netlink.BpfFilter, err error) {
	link, err := netlink.LinkByIndex(index)
	if isLinkNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("interface %d: %w", index, err)
	}
	filters, err := netlink.FilterList(link, parentOf(egress))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("filters of %s: %w", link.Attrs().Name, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == filterPriority && strings.HasPrefix(b.Name, "skep_") {
			ours = append(ours, b)
		}
	}
	return ours, nil
}

func (clsact) detach(index int) error {
	found := false
	for _, egress := range []bool{false, true} {
		ours, err := filtersOf(index, egress)
		if err != nil {
			return err
		}
		for _, f := range ours {
			found = true
			if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove filter %s: %w", f.Name, err)
			}
		}
	}
	if !found {
		return nil
	}
	return removeUnused(index)
}

// removeUnused removes the qdisc with Skep's last filter, unless other filters use it.
func removeUnused(index int) error {
	link, err := netlink.LinkByIndex(index)
	if isLinkNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %d: %w", index, err)
	}
	for _, egress := range []bool{false, true} {
		left, err := netlink.FilterList(link, parentOf(egress))
		if err != nil {
			return fmt.Errorf("filters of %s: %w", link.Attrs().Name, err)
		}
		if len(left) > 0 {
			return nil
		}
	}
	if err := netlink.QdiscDel(qdiscOf(index)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the clsact qdisc of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func (clsact) interfaces() (indexes []int, err error) {
	qdiscs, err := netlink.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		for _, egress := range []bool{false, true} {
			ours, err := filtersOf(q.Attrs().LinkIndex, egress)
			if err != nil {
				return nil, err
			}
			if len(ours) > 0 {
				indexes = append(indexes, q.Attrs().LinkIndex)
			}
		}
	}
	slices.Sort(indexes)
	return slices.Compact(indexes), nil
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

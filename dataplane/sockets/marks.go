package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/bpf"
)

// marked is what both ways of closing load.
type marked struct {
	Departed *ebpf.Map     `ebpf:"skep_departed"`
	Find     *ebpf.Program `ebpf:"skep_find_sockets"`
}

// marks are the endpoints that the programs search for in a sweep.
type marks struct {
	departed *ebpf.Map
	find     *link.Iter
}

// newMarks takes what was loaded; the program is closed.
func newMarks(loaded marked) (*marks, error) {
	defer loaded.Find.Close()
	find, err := link.AttachIter(link.IterOptions{Program: loaded.Find})
	if err != nil {
		return nil, errors.Join(err, loaded.Departed.Close())
	}
	return &marks{loaded.Departed, find}, nil
}

// room is how many targets can be marked.
func (m *marks) room() int { return int(m.departed.MaxEntries()) }

func (m *marks) mark(targets []Target) error {
	for _, t := range targets {
		var departed bpf.SocketsDeparted
		if t.Connecting {
			departed.OnlyConnecting = 1
		}
		if err := m.departed.Put(endpointOf(t), departed); err != nil {
			return fmt.Errorf("mark target %s: %w", t, err)
		}
	}
	return nil
}

// namespaces returns the inode numbers of the network namespaces in which a
// process has a socket that is connected to a target.
func (m *marks) namespaces() (map[uint64]struct{}, error) {
	printed, err := readAll(m.find)
	if err != nil {
		return nil, fmt.Errorf("look for sockets among open files: %w", err)
	}
	found := map[uint64]struct{}{}
	for ; len(printed) >= 4; printed = printed[4:] {
		found[uint64(binary.NativeEndian.Uint32(printed))] = struct{}{}
	}
	return found, nil
}

// readAll lets an iterator run to its end and returns what it printed.
func readAll(iter *link.Iter) ([]byte, error) {
	reader, err := iter.Open()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return io.ReadAll(reader)
}

// unmark removes the marks and adds up what the walks counted.
func (m *marks) unmark(targets []Target, result *Result) error {
	var failed []error
	for _, t := range targets {
		var departed bpf.SocketsDeparted
		err := m.departed.LookupAndDelete(endpointOf(t), &departed)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("read verdicts of %s: %w", t, err))
		}
		for verdict, sockets := range departed.Verdicts {
			result.count(bpf.SocketsVerdict(verdict), sockets)
		}
	}
	return errors.Join(failed...)
}

func (m *marks) Close() error { return errors.Join(m.find.Close(), m.departed.Close()) }

func endpointOf(t Target) bpf.SocketsEndpoint {
	e := bpf.SocketsEndpoint{Port: bpf.SwapPort(t.Port), Protocol: uint8(t.Protocol)}
	e.Addr.Word = bpf.ToNetwork(t.Addr)
	return e
}

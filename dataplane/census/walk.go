package census

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// batch is how many entries are taken out of a map at once.
const batch = 4096

// walkSockets adds all sockets to the counts.
func (c *Census) walkSockets() error {
	reader, err := c.sockets.Open()
	if err != nil {
		return fmt.Errorf("count sockets: %w", err)
	}
	defer reader.Close()
	if _, err := io.Copy(io.Discard, reader); err != nil { // it prints nothing
		return fmt.Errorf("count sockets: %w", err)
	}
	// The next walk counts them again.
	return drain(c.objects.Seen, func(uint64, uint32) {})
}

// walkFlows adds all flows to the counts.
func (c *Census) walkFlows() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	walk := bpf.CensusFlowsWalk{Now: uint64(now.Nano())}
	if _, err := c.objects.Flows.Run(&ebpf.RunOptions{Context: &walk}); err != nil {
		return fmt.Errorf("count flows: %w", err)
	}
	return nil
}

// drainCounts empties the counts.
func (c *Census) drainCounts() (map[Key]Connected, error) {
	counted := map[Key]Connected{}
	err := drain(c.objects.Connected, func(key bpf.CensusConnectedKey, value bpf.CensusConnected) {
		one := Connected{Sockets: value.Sockets, Flows: value.Flows, Weighed: value.Weighed, Timed: value.Timed}
		if one.Timed > 0 {
			one.RoundTrip = time.Duration(value.TripSum) * time.Microsecond / time.Duration(one.Timed)
		}
		counted[Key{key.Service, addrPort(key.Backend), service.Protocol(key.Backend.Protocol)}] = one
	})
	return counted, err
}

// drain removes and returns every entry of a hash map.
func drain[K, V any](m *ebpf.Map, each func(K, V)) error {
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		for i := range n {
			each(keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

func addrPort(e bpf.CensusEndpoint) netip.AddrPort {
	var addr [16]byte
	for i, word := range e.Addr.Word {
		binary.NativeEndian.PutUint32(addr[4*i:], word)
	}
	port := binary.NativeEndian.AppendUint16(nil, e.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), binary.BigEndian.Uint16(port))
}

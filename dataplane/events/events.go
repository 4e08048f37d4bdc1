// Package events reads what the data plane's programs report about failed
// connections: which service, which client, which failure. Counters say how
// often; events say for whom and when.
//
// It owns the reading end of the map skep_events and keeps the latest events in
// memory. It never writes maps, and decides nothing: programs report at most a few
// events of one service in a second, and what is not read in time is lost.
package events

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// kept is how many events are kept.
const kept = 512

// kinds are names and texts of failures; the index is enum event_kind.
var kinds = [bpf.CensusEventKindFAILURE_COUNT]struct{ name, text string }{
	bpf.CensusEventKindFAILURE_NO_BACKEND:       {"no_backend", "no backend"},
	bpf.CensusEventKindFAILURE_BACKENDS_DOWN:    {"backends_down", "all backends are on nodes that are down"},
	bpf.CensusEventKindFAILURE_NO_LOCAL_BACKEND: {"no_local_backend", "no backend on this node (traffic policy Local)"},
	bpf.CensusEventKindFAILURE_SOURCE_REFUSED:   {"source_refused", "client is outside loadBalancerSourceRanges"},
	bpf.CensusEventKindFAILURE_COLLISION:        {"collision", "client's port is connected to the backend already, by way of another address"},
	bpf.CensusEventKindFAILURE_FLOWS_FULL:       {"flows_full", "no room for the connection in the kernel"},
	bpf.CensusEventKindFAILURE_BACKEND_FAILED:   {"backend_failed", "backend refused or did not answer"},
}

// Event is one failed connection. Unknown fields are zero.
type Event struct {
	Time     time.Time      `json:"time"`
	Kind     string         `json:"kind"`
	Service  string         `json:"service"`
	Protocol string         `json:"protocol,omitempty"`
	Client   netip.AddrPort `json:"client,omitzero"` // a packet's source
	Process  uint32         `json:"process,omitempty"`
	Command  string         `json:"command,omitempty"` // of the process
	Asked    netip.AddrPort `json:"asked,omitzero"`
	Backend  netip.AddrPort `json:"backend,omitzero"`
}

// String is the event without its time.
func (e Event) String() string {
	text := e.Kind
	for _, kind := range kinds {
		if kind.name == e.Kind {
			text = kind.text
		}
	}
	var who []string
	if e.Client.IsValid() {
		who = append(who, "client "+e.Client.String())
	}
	if e.Process != 0 {
		who = append(who, fmt.Sprintf("process %d (%s)", e.Process, e.Command))
	}
	if e.Asked.IsValid() {
		who = append(who, "asked "+e.Asked.String()+"/"+e.Protocol)
	}
	if e.Backend.IsValid() {
		who = append(who, "backend "+e.Backend.String()+"/"+e.Protocol)
	}
	return fmt.Sprintf("%s: %s: %s", e.Service, text, strings.Join(who, ", "))
}

// Log keeps events. Its methods may be called concurrently.
type Log struct {
	plane  *service.Plane
	log    *slog.Logger
	reader *ringbuf.Reader

	mu      sync.Mutex
	events  []Event // the latest
	count   uint64  // how many there were
	changed chan struct{}
}

// Open begins to receive events; the Plane must stay open until Close. Only one
// process may: each event goes to one reader.
func Open(plane *service.Plane, log *slog.Logger) (*Log, error) {
	if log == nil {
		log = slog.Default()
	}
	reader, err := ringbuf.NewReader(plane.Maps()[bpf.CensusMapSkepEvents])
	if err != nil {
		return nil, fmt.Errorf("listen to the data plane's events: %w", err)
	}
	return &Log{plane: plane, log: log, reader: reader, changed: make(chan struct{})}, nil
}

// Run reads events until ctx ends or the Log is closed.
func (l *Log) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		if err := l.reader.Close(); err != nil {
			l.log.Error("stop listening to the data plane's events", "err", err)
		}
	})
	defer stop()
	for {
		record, err := l.reader.Read()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			l.log.Error("the data plane's events are not read any more", "err", err)
			return
		}
		if e, ok := l.decode(record.RawSample); ok {
			l.add(e)
		}
	}
}

func (l *Log) decode(sample []byte) (Event, bool) {
	var raw bpf.CensusEvent
	if err := binary.Read(bytes.NewReader(sample), binary.NativeEndian, &raw); err != nil || int(raw.Kind) >= len(kinds) {
		l.log.Error("an event of the data plane is not understood: was another build's program attached?", "bytes", len(sample), "kind", raw.Kind, "err", err)
		return Event{}, false
	}
	command, _, _ := bytes.Cut(raw.Command[:], []byte{0})
	e := Event{
		Time: time.Now(), Kind: kinds[raw.Kind].name, Service: l.plane.ServiceName(raw.Service),
		Client: addrPort(raw.Client), Asked: addrPort(raw.Asked), Backend: addrPort(raw.Backend),
		Process: raw.Process, Command: string(command),
	}
	if protocol := raw.Asked.Protocol | raw.Backend.Protocol; protocol != 0 {
		e.Protocol = service.Protocol(protocol).String()
	}
	return e, true
}

func (l *Log) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == kept {
		l.events = append(l.events[:0], l.events[1:]...)
	}
	l.events = append(l.events, e)
	l.count++
	close(l.changed)
	l.changed = make(chan struct{})
}

// Recent returns the kept events, the oldest first.
func (l *Log) Recent() []Event {
	events, _, _ := l.since(0)
	return events
}

// since returns those of the kept events that came after the first n, how many
// there were in all, and a channel that is closed when there are more.
func (l *Log) since(n uint64) ([]Event, uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := min(l.count-n, uint64(len(l.events)))
	return append([]Event(nil), l.events[uint64(len(l.events))-news:]...), l.count, l.changed
}

// Follow calls each with the kept events, and with every new one until ctx ends or
// each fails. A caller that is too slow misses some.
func (l *Log) Follow(ctx context.Context, each func(Event) error) error {
	var seen uint64
	for {
		events, now, changed := l.since(seen)
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// Close ends Run.
func (l *Log) Close() error { return l.reader.Close() }

// addrPort is invalid for an unknown address.
func addrPort(e bpf.CensusEndpoint) netip.AddrPort {
	if e.Port == 0 {
		return netip.AddrPort{}
	}
	var addr [16]byte
	for i, word := range e.Addr.Word {
		binary.NativeEndian.PutUint32(addr[4*i:], word)
	}
	port := binary.NativeEndian.AppendUint16(nil, e.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), binary.BigEndian.Uint16(port))
}

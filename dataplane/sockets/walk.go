package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// walker closes sockets while the kernel walks over them.
type walker struct {
	objects struct {
		Departed *ebpf.Map     `ebpf:"skep_departed"`
		TCP      *ebpf.Program `ebpf:"skep_close_tcp"`
		UDP      *ebpf.Program `ebpf:"skep_close_udp"`
	}
	tcp, udp *link.Iter
}

func newWalker(o Options) (*walker, error) {
	w := &walker{}
	err := load(o, &w.objects)
	if err == nil {
		w.tcp, err = link.AttachIter(link.IterOptions{Program: w.objects.TCP})
	}
	if err == nil {
		w.udp, err = link.AttachIter(link.IterOptions{Program: w.objects.UDP})
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// close looks at all targets in as few walks as their map has room for.
func (w *walker) close(ctx context.Context, targets []Target) (Result, error) {
	var all Result
	for len(targets) > 0 {
		batch := targets[:min(len(targets), int(w.objects.Departed.MaxEntries()))]
		targets = targets[len(batch):]
		result, err := w.closeBatch(ctx, batch)
		all.add(result)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// closeBatch tells the programs the targets, lets them see the sockets of each
// protocol that has a target, and reads what they did.
func (w *walker) closeBatch(ctx context.Context, targets []Target) (result Result, err error) {
	defer func() { err = errors.Join(err, w.forget(targets, &result)) }()
	walks := map[service.Protocol]*link.Iter{}
	for _, t := range targets {
		var departed bpf.SocketsDeparted
		if t.Connecting {
			departed.OnlyConnecting = 1
		}
		if err := w.objects.Departed.Put(endpointOf(t), departed); err != nil {
			return result, fmt.Errorf("write target %s: %w", t, err)
		}
		walks[t.Protocol] = w.udp
		if t.Protocol == service.TCP {
			walks[t.Protocol] = w.tcp
		}
	}
	for protocol, walk := range walks {
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		if err := run(walk); err != nil {
			return result, fmt.Errorf("walk over %s sockets: %w", protocol, err)
		}
	}
	return result, nil
}

// run reads an iterator to its end: the programs print nothing.
func run(walk *link.Iter) error {
	reader, err := walk.Open()
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = io.Copy(io.Discard, reader)
	return err
}

// forget takes the targets out of the map again and adds up their verdicts.
func (w *walker) forget(targets []Target, result *Result) error {
	var failed []error
	for _, t := range targets {
		var departed bpf.SocketsDeparted
		err := w.objects.Departed.LookupAndDelete(endpointOf(t), &departed)
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

func (w *walker) Close() error {
	var failed []error
	for _, iter := range []*link.Iter{w.tcp, w.udp} {
		if iter != nil {
			failed = append(failed, iter.Close())
		}
	}
	return errors.Join(append(failed, w.objects.TCP.Close(), w.objects.UDP.Close(), w.objects.Departed.Close())...)
}

// endpointOf is a target as the maps hold it: addresses as 16 bytes and ports
// as 2, both in network order. endpointOf and peerOf are the only places here
// that know.
func endpointOf(t Target) bpf.SocketsEndpoint {
	e := bpf.SocketsEndpoint{Protocol: uint8(t.Protocol)}
	bytes := t.Addr.As16()
	for i := range e.Addr.Word {
		e.Addr.Word[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	e.Port = binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, t.Port))
	return e
}

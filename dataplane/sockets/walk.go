package sockets

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/dataplane/service"
)

// walker closes sockets while the kernel walks over them.
type walker struct {
	marks    *marks
	tcp, udp *link.Iter
}

func newWalker(o Options) (*walker, error) {
	var objects struct {
		marked
		TCP *ebpf.Program `ebpf:"skep_close_tcp"`
		UDP *ebpf.Program `ebpf:"skep_close_udp"`
	}
	if err := load(o, &objects); err != nil {
		return nil, err
	}
	defer objects.TCP.Close()
	defer objects.UDP.Close()
	marks, err := newMarks(objects.marked)
	if err != nil {
		return nil, err
	}
	w := &walker{marks: marks}
	w.tcp, err = link.AttachIter(link.IterOptions{Program: objects.TCP})
	if err == nil {
		w.udp, err = link.AttachIter(link.IterOptions{Program: objects.UDP})
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *walker) marked() *marks { return w.marks }

// close runs the programs over the sockets of each protocol that has a target.
// They count what they do in the marks.
func (w *walker) close(ctx context.Context, targets []Target) (Result, error) {
	walks := map[service.Protocol]*link.Iter{}
	for _, t := range targets {
		walks[t.Protocol] = w.udp
		if t.Protocol == service.TCP {
			walks[t.Protocol] = w.tcp
		}
	}
	for protocol, walk := range walks {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if _, err := readAll(walk); err != nil { // they print nothing
			return Result{}, fmt.Errorf("walk over %s sockets: %w", protocol, err)
		}
	}
	return Result{}, nil
}

func (w *walker) Close() error {
	failed := []error{w.marks.Close()}
	for _, iter := range []*link.Iter{w.tcp, w.udp} {
		if iter != nil {
			failed = append(failed, iter.Close())
		}
	}
	return errors.Join(failed...)
}

package service

import (
	"context"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// deadlined is a context that ends after the tests' deadline.
func deadlined() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func cancellable() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), deadline)
}

// awaitError waits until a write has failed and returns its error.
func (p *Plane) awaitError() error {
	ctx, cancel := cancellable()
	defer cancel()
	for {
		p.mu.Lock()
		err, changed := p.lastErr, p.changed
		p.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// passProgram is a connect hook that allows everything.
func passProgram(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.CGroupSockAddr,
		AttachType:   ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

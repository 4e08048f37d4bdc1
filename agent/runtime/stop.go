package runtime

import (
	"context"
	"fmt"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// Stop sends the container its stop signal and kills it when the grace period is over; without one it kills at once. It returns
// when the container has exited. When ctx ends it returns too, and kills nothing.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	e, ok := r.lookup(id)
	if !ok {
		return nil
	}
	if grace > 0 {
		if err := r.Terminate(ctx, id); err != nil {
			return err
		}
		if exited, err := e.exitsWithin(ctx, grace); exited || err != nil {
			return err
		}
	}
	return r.Kill(ctx, id)
}

// Terminate sends the container its stop signal.
func (r *Runtime) Terminate(ctx context.Context, id string) error {
	e, ok := r.lookup(id)
	if !ok {
		return nil
	}
	signal := unix.SIGTERM
	if e.StopSignal != "" {
		signal = parseSignal(e.StopSignal)
	}
	return r.Signal(ctx, id, signal)
}

// Kill kills the container, and returns when it has exited or ctx ends. It repeats the kill: one that meets a paused or starting
// process may have no effect.
func (r *Runtime) Kill(ctx context.Context, id string) error {
	e, ok := r.lookup(id)
	if !ok {
		return nil
	}
	for range 5 {
		if err := r.Signal(ctx, id, unix.SIGKILL); err != nil {
			return err
		}
		if exited, err := e.exitsWithin(ctx, 2*time.Second); exited || err != nil {
			return err
		}
	}
	return fmt.Errorf("container %s does not die of SIGKILL; is a process of it stuck in the kernel?", id)
}

// exitsWithin waits for the container's exit, and returns ctx's error if that ends first.
func (e *entry) exitsWithin(ctx context.Context, limit time.Duration) (exited bool, err error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.exited:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Signal sends a signal to the container's first process; SIGKILL is sent to all its processes if it has no PID namespace of its
// own, which would end them.
func (r *Runtime) Signal(ctx context.Context, id string, signal unix.Signal) error {
	e, ok := r.lookup(id)
	if !ok {
		return nil
	}
	_, err := r.client.TaskService().Kill(r.ctx(ctx), &tasks.KillRequest{
		ContainerID: id, Signal: uint32(signal), All: signal == unix.SIGKILL && e.HostPID,
	})
	err = errgrpc.ToNative(err)
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err):
		// It has ended. If the event is lost, the comparison finds the exit; here the task itself is asked, so that no caller
		// waits for the event.
		r.checkExited(r.ctx(ctx), id)
		return nil
	}
	return fmt.Errorf("signal container %s: %w", id, err)
}

// checkExited records the exit of a container that cannot be signalled any more.
func (r *Runtime) checkExited(ctx context.Context, id string) {
	response, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if errdefs.IsNotFound(errgrpc.ToNative(err)) {
		r.exited(id, exitLost, time.Now())
		return
	}
	if err == nil && response.Process.ExitedAt != nil && !response.Process.ExitedAt.AsTime().IsZero() && response.Process.ExitedAt.AsTime().Unix() > 0 {
		r.exited(id, int(response.Process.ExitStatus), response.Process.ExitedAt.AsTime())
	}
}

// WaitExit returns when the container has exited.
func (r *Runtime) WaitExit(ctx context.Context, id string) (Container, error) {
	e, ok := r.lookup(id)
	if !ok {
		return Container{}, fmt.Errorf("container %s is not known", id)
	}
	select {
	case <-e.exited:
		r.mu.Lock()
		defer r.mu.Unlock()
		return e.Container, nil
	case <-ctx.Done():
		return Container{}, ctx.Err()
	}
}

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

// Stop asks the container to end with its stop signal and kills it when the
// grace period is over or hurry closes, whichever is first. It returns when
// the container has exited. When ctx ends it returns too, and kills nothing.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration, hurry <-chan struct{}) error {
	e, ok := r.lookup(id)
	if !ok {
		return nil
	}
	background := r.ctx(context.WithoutCancel(ctx))
	if grace > 0 {
		signal := unix.SIGTERM
		if e.StopSignal != "" {
			signal = parseSignal(e.StopSignal)
		}
		if err := r.Signal(background, id, signal); err != nil {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-e.exited:
			return nil
		case <-timer.C:
		case <-hurry:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return r.kill(background, e)
}

// kill repeats itself: a kill that raced a paused or starting process is not
// the end of it.
func (r *Runtime) kill(ctx context.Context, e *entry) error {
	for attempt := 0; attempt < 5; attempt++ {
		if err := r.Signal(ctx, e.ID, unix.SIGKILL); err != nil {
			return err
		}
		timer := time.NewTimer(2 * time.Second)
		select {
		case <-e.exited:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return fmt.Errorf("container %s does not die of SIGKILL; is a process of it stuck in the kernel?", e.ID)
}

// Signal sends a signal to the container's first process; SIGKILL reaches
// every process of it where no PID namespace would end them.
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
		// It has ended. If the event is lost, the comparison finds it; here
		// the task itself is asked, so that nobody waits for the event.
		r.checkExited(r.ctx(ctx), id)
		return nil
	}
	return fmt.Errorf("signal container %s: %w", id, err)
}

// checkExited settles a container that cannot be signalled any more.
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

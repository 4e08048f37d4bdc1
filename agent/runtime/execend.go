package runtime

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// Bounds of what is still read after a command has exited. Its own remaining output is in pipes and
// small; later output comes from a child that it left running, and is not wanted.
const (
	drainQuiet = time.Second // with nothing to read
	drainTotal = 10 * time.Second
	drainBytes = 1 << 20
	// endTimeout bounds the removal of a command. Within it, the shim waits up to ten seconds for
	// output that a child holds open.
	endTimeout = time.Minute
	// killTimeout bounds the kill: a process stuck in the kernel does not end, and the agent's end
	// waits for the kill.
	killTimeout = 20 * time.Second
	// startTimeout is how long a command may still start after its caller has given up.
	startTimeout = 20 * time.Second
)

// execOutput follows the copying of a command's output to its receiver.
type execOutput struct {
	moved      atomic.Int64
	delivering atomic.Int32
	started    chan struct{} // closed when the shim has started the command, or could not
	copied     chan struct{} // closed when nothing more is copied; nil before the start
	exited     bool
	finished   atomic.Bool // what still comes is discarded

	over     chan struct{} // closed by finish
	overOnce sync.Once
}

func (o *execOutput) ended() <-chan struct{} {
	if o.over == nil {
		o.over = make(chan struct{})
	}
	return o.over
}

func (o *execOutput) finish() {
	o.finished.Store(true)
	if o.over != nil {
		o.overOnce.Do(func() { close(o.over) })
	}
}

// to returns a writer to w that is counted; with a nil w it discards everything.
func (o *execOutput) to(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return &countedWriter{w, o}
}

type countedWriter struct {
	w io.Writer
	o *execOutput
}

func (c *countedWriter) Write(p []byte) (int, error) {
	if c.o.finished.Load() {
		return len(p), nil
	}
	c.o.delivering.Add(1)
	defer c.o.delivering.Add(-1)
	n, err := c.w.Write(p)
	c.o.moved.Add(int64(n))
	return n, err
}

// drain returns when the output of a command that has exited is delivered: when all writers have
// closed it, or when what still arrives cannot be the command's own. A slow receiver is waited for.
func (o *execOutput) drain(ctx context.Context) {
	began, last, lastMoved := time.Now(), o.moved.Load(), time.Now()
	first := last
	tick := time.NewTicker(drainQuiet / 10)
	defer tick.Stop()
	for {
		select {
		case <-o.copied:
			return
		case <-ctx.Done():
			return
		case now := <-tick.C:
			moved := o.moved.Load()
			if moved != last || o.delivering.Load() > 0 {
				last, lastMoved = moved, now
			}
			switch {
			case o.delivering.Load() > 0 && moved-first < drainBytes:
			case moved-first >= drainBytes, now.Sub(lastMoved) >= drainQuiet, now.Sub(began) >= drainTotal:
				return
			}
		}
	}
}

// endExec removes a command that has ended. Requests to containerd run in the background: a shim
// that does not answer must not delay the command's caller. Nothing is written to the receivers
// afterwards, except by a write that already waits for its receiver.
func (r *Runtime) endExec(ctx context.Context, id string, process containerd.Process, out *execOutput) {
	out.finish()
	select {
	case <-out.started:
		process.IO().Cancel()
		if out.copied != nil {
			select {
			case <-out.copied:
			case <-time.After(drainQuiet):
			}
		}
	default: // the shim still opens the streams
	}
	ctx = context.WithoutCancel(ctx)
	killed := make(chan struct{})
	r.work.Go(func() {
		defer close(killed)
		<-out.started
		process.IO().Cancel()
		if !out.exited {
			r.killExec(ctx, id, process)
		}
	})
	// Close does not wait for this: the shim may be slow, and what it does not remove is removed
	// with the container.
	go func() {
		<-killed
		ctx, cancel := context.WithTimeout(ctx, endTimeout)
		defer cancel()
		request := &tasks.DeleteProcessRequest{ContainerID: id, ExecID: process.ID()}
		_, err := r.client.TaskService().DeleteProcess(ctx, request)
		if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsCanceled(err) {
			slog.Warn("command in a container not removed; it is removed with the container", "container", id, "pid", process.Pid(), "err", err)
		}
		if err := process.IO().Close(); err != nil {
			slog.Debug("command's streams not closed", "container", id, "err", err)
		}
	}()
}

// killExec kills a command and what it started: runc makes each command the leader of a process
// group. A child that left the group keeps running, as with the kubelet.
func (r *Runtime) killExec(ctx context.Context, id string, process containerd.Process) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	exited, err := process.Wait(ctx)
	if err != nil {
		return
	}
	// Not process.Pid: if the caller gave up while the command was being started, the answer with
	// the number never arrived.
	if pid := r.runningExec(ctx, id, process.ID()); pid > 0 {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			// Checked again after the open: containerd has not reaped the process, so the number,
			// and with it the descriptor, is still its own.
			if r.runningExec(ctx, id, process.ID()) == pid {
				killGroup(fd, pid)
			}
			unix.Close(fd)
		}
	}
	if err := process.Kill(ctx, unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		slog.Debug("command not killed by containerd", "exec", process.ID(), "err", err)
	}
	select {
	case <-exited:
	case <-ctx.Done():
		slog.Warn("command in a container does not end although it was to be killed", "exec", process.ID(), "pid", process.Pid(), "waited", killTimeout)
	}
}

// runningExec is the process ID of a command; 0 if that does not run.
func (r *Runtime) runningExec(ctx context.Context, id, exec string) int {
	response, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id, ExecID: exec})
	if err != nil || response.Process.GetStatus() != tasktypes.Status_RUNNING {
		return 0
	}
	return int(response.Process.GetPid())
}

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP of Linux 6.9.
const pidfdSignalProcessGroup = 1 << 2

func killGroup(fd, pid int) {
	err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, pidfdSignalProcessGroup)
	if !errors.Is(err, unix.EINVAL) {
		return
	}
	// An older kernel: the leader still exists, so its number is not reused.
	if group, err := unix.Getpgid(pid); err == nil && group == pid && unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}

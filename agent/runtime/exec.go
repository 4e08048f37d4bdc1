package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Size is the size of a terminal.
type Size struct{ Width, Height uint16 }

// ExecOptions are a command's streams; nil ones are not connected.
type ExecOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
}

// ErrNotRunning means that the container has no process to join.
var ErrNotRunning = errors.New("container is not running")

// Exec runs a command in a running container, as its user and with its environment, and returns the
// exit code. It ends when the command does, also if a child of the command keeps running and holds
// its output open. When ctx ends the command and its process group are killed.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, o ExecOptions) (int, error) {
	ctx = r.ctx(ctx)
	if err := r.running(id); err != nil {
		return -1, err
	}
	container, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	out := &execOutput{started: make(chan struct{})}
	process, stdin, err := r.startExec(ctx, container, task, command, o, out)
	if err != nil {
		return -1, r.unlessEnded(id, err)
	}
	defer r.endExec(ctx, id, process, out)
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	exited, err := process.Wait(waiting)
	if err != nil {
		close(out.started)
		return -1, fmt.Errorf("exec: %w", err)
	}
	select {
	case err := <-r.start(ctx, process, out):
		if err != nil {
			return -1, r.unlessEnded(id, fmt.Errorf("exec: %w", err))
		}
	case <-ctx.Done():
		return -1, ctx.Err()
	}
	if stdin != nil {
		stdin.process <- process
	}
	out.copied = make(chan struct{})
	go func() { process.IO().Wait(); close(out.copied) }()
	for {
		select {
		case size, ok := <-o.Resize:
			if !ok {
				o.Resize = nil
				continue
			}
			_ = process.Resize(ctx, uint32(size.Width), uint32(size.Height))
		case status := <-exited:
			code, _, err := status.Result()
			if err == nil {
				out.exited = true
				out.drain(ctx)
			}
			return int(code), err
		case <-ctx.Done():
			return -1, ctx.Err()
		}
	}
}

// start starts a command. It goes on for a while after ctx has ended: a shim whose caller closes the command's streams while it
// still opens them loses the process, which could then not be killed.
func (r *Runtime) start(ctx context.Context, process containerd.Process, out *execOutput) <-chan error {
	starting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	givenUp := context.AfterFunc(ctx, func() { time.AfterFunc(startTimeout, cancel) })
	result := make(chan error, 1)
	r.work.Go(func() {
		defer cancel()
		err := process.Start(starting)
		givenUp()
		close(out.started)
		result <- err
	})
	return result
}

// running returns an error if the container has no process to join.
func (r *Runtime) running(id string) error {
	c, ok := r.Container(id)
	switch {
	case !ok:
		return fmt.Errorf("container %s: %w", id, ErrNotRunning)
	case c.State == Exited:
		return fmt.Errorf("container %q: %w: it ended with exit code %d (%s)", c.Name, ErrNotRunning, c.ExitCode, c.Reason)
	case c.State != Running:
		return fmt.Errorf("container %q: %w yet", c.Name, ErrNotRunning)
	}
	return nil
}

// unlessEnded replaces an error of joining a container by ErrNotRunning if the container has ended.
func (r *Runtime) unlessEnded(id string, err error) error {
	if ended := r.running(id); ended != nil {
		return ended
	}
	return err
}

func (r *Runtime) startExec(ctx context.Context, container containerd.Container, task containerd.Task, command []string, o ExecOptions, out *execOutput) (containerd.Process, *stdinCloser, error) {
	info, err := container.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return nil, nil, fmt.Errorf("exec: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(info.Spec.GetValue(), &spec); err != nil {
		return nil, nil, fmt.Errorf("exec: %w", err)
	}
	process := *spec.Process
	process.Args, process.Terminal = command, o.TTY
	if o.TTY {
		process.Env = append(append([]string(nil), process.Env...), "TERM=xterm")
	}
	var closer *stdinCloser
	stdin := o.Stdin
	if stdin != nil {
		closer = &stdinCloser{Reader: stdin, process: make(chan containerd.Process, 1), ended: out.ended()}
		stdin = closer
	}
	// Streams that are not connected are read too: a shim opens every stream.
	stdout, stderr := out.to(o.Stdout), out.to(o.Stderr)
	if o.TTY {
		stderr = nil
	}
	options := []cio.Opt{cio.WithStreams(stdin, stdout, stderr), cio.WithFIFODir(filepath.Join(r.cfg.RunDir, "fifo"))}
	if o.TTY {
		options = append(options, cio.WithTerminal)
	}
	created, err := task.Exec(ctx, "exec-"+NewID()[:32], &process, cio.NewCreator(options...))
	if err != nil {
		return nil, nil, fmt.Errorf("exec: %w", err)
	}
	return created, closer, nil
}

// stdinCloser closes the shim's input when input ends; otherwise the command would wait for more
// for ever, since the shim itself keeps the FIFO open.
type stdinCloser struct {
	io.Reader
	process chan containerd.Process
	ended   <-chan struct{} // closed when the command has ended, or did not start
}

func (s *stdinCloser) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		go func() {
			select {
			case process := <-s.process:
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				defer cancel()
				_ = process.CloseIO(ctx, containerd.WithStdinCloser)
			case <-s.ended:
			}
		}()
	}
	return n, err
}

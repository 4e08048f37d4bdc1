package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// A container's standard input is a FIFO that its shim has open at both ends: for reading, and for
// writing until CloseStdin. So input stays open while no client is attached and while no agent
// runs, and clients connect by opening the FIFO. It is in a folder that exists as long as the task.
const stdinFIFO = "fifo"

// ErrStdinClosed means that a container's standard input has ended.
var ErrStdinClosed = errors.New("standard input is closed")

func (r *Runtime) stdinDir(id string) string { return filepath.Join(r.cfg.RunDir, "stdin", id) }

func (r *Runtime) makeStdin(id string) (string, error) {
	dir := r.stdinDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	path := filepath.Join(dir, stdinFIFO)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return "", fmt.Errorf("standard input %s: %w", path, err)
	}
	return path, nil
}

// retainStdin removes the inputs of all containers except those present: leftovers after containerd
// lost a container, or the host its power.
func (r *Runtime) retainStdin(present map[string]bool) {
	entries, _ := os.ReadDir(filepath.Join(r.cfg.RunDir, "stdin")) // missing before the first container with an input
	for _, e := range entries {
		if !present[e.Name()] {
			if err := os.RemoveAll(r.stdinDir(e.Name())); err != nil {
				slog.Warn("standard input's FIFO not removed", "container", e.Name(), "err", err)
			}
		}
	}
}

// OpenStdin connects to a running container's standard input. Writing waits for the container to
// read; Close ends a waiting write, but not the input.
func (r *Runtime) OpenStdin(id string) (*os.File, error) {
	path := filepath.Join(r.stdinDir(id), stdinFIFO)
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container %s: %w", id, ErrStdinClosed)
	}
	if err != nil {
		return nil, fmt.Errorf("standard input of container %s: %w", id, err)
	}
	return f, nil
}

// CloseStdin ends the container's input once all clients have closed theirs. No client can connect
// afterwards.
func (r *Runtime) CloseStdin(ctx context.Context, id string) error {
	if err := os.Remove(filepath.Join(r.stdinDir(id), stdinFIFO)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close standard input of container %s: %w", id, err)
	}
	if _, err := r.client.TaskService().CloseIO(r.ctx(ctx), &tasks.CloseIORequest{ContainerID: id, Stdin: true}); err != nil {
		return fmt.Errorf("close standard input of container %s: %w", id, errgrpc.ToNative(err))
	}
	return nil
}

// Resize sets the size of a container's terminal.
func (r *Runtime) Resize(ctx context.Context, id string, size Size) error {
	_, err := r.client.TaskService().ResizePty(r.ctx(ctx), &tasks.ResizePtyRequest{
		ContainerID: id, Width: uint32(size.Width), Height: uint32(size.Height),
	})
	if err != nil {
		return fmt.Errorf("resize terminal of container %s: %w", id, errgrpc.ToNative(err))
	}
	return nil
}

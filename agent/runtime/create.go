package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/skep-io/skep/agent/confine"
)

const (
	runtimeName = "io.containerd.runc.v2"
	// gcRoot protects a snapshot that no container refers to yet.
	gcRoot             = "containerd.io/gc.root"
	labelSnapshotOwner = "skep.io/snapshot.pod"
)

// ErrNoCommand means that neither the pod nor the image has a command.
var ErrNoCommand = errors.New("no command specified")

// ConfigError says why a container cannot be created as the pod asks; trying again does not help
// until the pod or the image changes.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func configErrorf(format string, args ...any) error {
	return &ConfigError{fmt.Errorf(format, args...)}
}

// Prepared is a root file system created before its container.
type Prepared struct {
	ID     string
	image  Image
	mounts []mount.Mount
}

// Prepare makes a writable root file system of the image, while the pod's namespaces and volumes
// are still being made. Discard it if no container is created from it.
func (r *Runtime) Prepare(ctx context.Context, podUID, image string) (*Prepared, error) {
	ctx = r.ctx(ctx)
	img, err := r.Image(ctx, image)
	if err != nil {
		return nil, err
	}
	p := &Prepared{ID: NewID(), image: img}
	r.setPreparing(p.ID, img)
	// The next agent's clean-up of stray snapshots recognises ours by the label.
	p.mounts, err = r.snapshotter().Prepare(ctx, p.ID, img.chainID, snapshots.WithLabels(map[string]string{
		gcRoot:             time.Now().UTC().Format(time.RFC3339),
		labelSnapshotOwner: podUID,
	}))
	if err != nil {
		r.setPreparing(p.ID, Image{})
		r.images.clear() // the image may have been removed meanwhile
		return nil, fmt.Errorf("prepare root file system of %s: %w", image, err)
	}
	return p, nil
}

// Discard removes a prepared root file system.
func (r *Runtime) Discard(ctx context.Context, p *Prepared) error {
	defer r.setPreparing(p.ID, Image{})
	return r.snapshotter().Remove(r.ctx(ctx), p.ID)
}

// Create makes the container and its task. The process exists afterwards, stopped before its first
// instruction, until Start. On error everything is removed, the prepared root file system included.
func (r *Runtime) Create(ctx context.Context, p *Prepared, cfg ContainerConfig) (_ Container, err error) {
	ctx = r.ctx(ctx)
	c := Container{
		ID: p.ID, PodNamespace: cfg.PodNamespace, PodName: cfg.PodName, PodUID: cfg.PodUID,
		Name: cfg.Name, Attempt: cfg.Attempt, SpecHash: cfg.SpecHash,
		Image: p.image.Name, ImageID: p.image.ID,
		CgroupPath: filepath.Join(firstOf(cfg.Sandbox.Cgroup, r.cgroups.PodPath(cfg.PodUID, cfg.Sandbox.QOS)), p.ID),
		LogPath:    r.LogPath(cfg.PodUID, cfg.Name, cfg.Attempt),
		StopSignal: p.image.config.StopSignal, Terminal: cfg.TTY, HostPID: cfg.HostPID,
		Stdin: cfg.Stdin, StdinOnce: cfg.Stdin && cfg.StdinOnce,
		State: Created, CreatedAt: time.Now(),
		TerminationMessagePolicy: cfg.TerminationMessagePolicy,
	}
	e := newEntry(c)
	r.insert(e)
	r.setPreparing(c.ID, Image{})
	defer func() {
		if err != nil {
			r.mu.Lock()
			delete(r.containers, c.ID)
			r.mu.Unlock()
			background, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			r.discard(background, c.ID)
			r.cfg.Logs.Close(c.ID)
		}
	}()
	if err := r.makeMessageFile(&c, cfg.TerminationMessagePath); err != nil {
		return c, err
	}
	spec, err := r.buildSpec(&c, cfg, p)
	if err != nil {
		return c, err
	}
	r.mu.Lock()
	e.User = c.User
	r.mu.Unlock()
	rootfs := p.mounts
	var options *anypb.Any
	if users := cfg.Sandbox.Users; users != 0 {
		var end func()
		rootfs, end, err = r.mapIDs(&c, spec, rootfs, cfg.Sandbox)
		defer end()
		if err == nil {
			options, err = typeurl.MarshalAnyToProto(&runcoptions.Options{IoUid: uint32(users), IoGid: uint32(users)})
		}
		if err != nil {
			return c, err
		}
	}
	stored, err := typeurl.MarshalAny(spec)
	if err != nil {
		return c, fmt.Errorf("encode spec: %w", err)
	}
	// The log's reader and containerd's metadata are created concurrently: a pod's start waits for
	// both.
	var stdout, stderr string
	var parallel errgroup.Group
	parallel.Go(func() (err error) {
		if stdout, stderr, err = r.cfg.Logs.Open(c.PodUID, c.Name, c.Attempt, c.ID, c.Interactive()); err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		return nil
	})
	parallel.Go(func() error {
		if _, err := r.client.ContainerService().Create(ctx, containers.Container{
			ID: c.ID, Labels: c.labels(), Image: c.Image,
			Runtime:     containers.RuntimeInfo{Name: runtimeName},
			Spec:        stored,
			SnapshotKey: c.ID, Snapshotter: r.cfg.Snapshotter,
		}); err != nil {
			return fmt.Errorf("create container: %w", err)
		}
		return nil
	})
	if err := parallel.Wait(); err != nil {
		return c, err
	}
	if cfg.TTY {
		stderr = ""
	}
	var stdin string
	if c.Stdin {
		if stdin, err = r.makeStdin(c.ID); err != nil {
			return c, err
		}
	}
	pid, err := r.createTask(ctx, c.PodUID, &tasks.CreateTaskRequest{
		ContainerID: c.ID, Rootfs: mountsToProto(rootfs), Options: options, Terminal: cfg.TTY, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		return c, fmt.Errorf("failed to create containerd task: %w", err)
	}
	r.mu.Lock()
	e.Pid = pid
	c = e.Container
	r.mu.Unlock()
	r.reapPod(c.PodUID, false)
	return c, nil
}

// createTask creates tasks of one pod one after the other: the first starts the shim that the
// others join.
func (r *Runtime) createTask(ctx context.Context, podUID string, request *tasks.CreateTaskRequest) (int, error) {
	lock := r.podLock(podUID)
	lock.Lock()
	defer lock.Unlock()
	response, err := r.client.TaskService().Create(ctx, request)
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	return int(response.Pid), nil
}

func (r *Runtime) podLock(podUID string) *sync.Mutex {
	lock, _ := r.locks.LoadOrStore(podUID, &sync.Mutex{})
	return lock.(*sync.Mutex)
}

func (r *Runtime) makeMessageFile(c *Container, path string) error {
	if path == "" {
		return nil
	}
	file := r.messagePath(c)
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return fmt.Errorf("termination message file: %w", err)
	}
	// A new file each time: a process that still has an earlier one open writes to that.
	if err := confine.RemoveAll(file); err != nil {
		return fmt.Errorf("termination message file: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("termination message file: %w", err)
	}
	defer f.Close()
	return f.Chmod(0o666) // whatever the umask
}

// Start starts the process of a created container.
func (r *Runtime) Start(ctx context.Context, id string) (Container, error) {
	ctx = r.ctx(ctx)
	e, ok := r.lookup(id)
	if !ok {
		return Container{}, fmt.Errorf("container %s is not known", id)
	}
	if _, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id}); err != nil {
		r.mu.Lock()
		delete(r.containers, id)
		c := e.Container
		r.mu.Unlock()
		background, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		r.discard(background, id)
		r.cfg.Logs.Close(id)
		return c, fmt.Errorf("failed to start containerd task: %w", errgrpc.ToNative(err))
	}
	r.mu.Lock()
	e.State, e.StartedAt = Running, time.Now()
	overtaken, code, at := !e.FinishedAt.IsZero(), e.ExitCode, e.FinishedAt
	if overtaken && at.Before(e.StartedAt) {
		e.StartedAt = at
	}
	c := e.Container
	r.mu.Unlock()
	// The record has what labels cannot: that and when the container started. Labels alone suffice
	// to adopt a running container, so the record may be lost.
	if err := r.saveRecord(id); err != nil {
		slog.Warn("start not recorded", "container", id, "err", err)
	}
	if overtaken {
		r.exited(id, code, at)
	}
	return c, nil
}

// Forget removes what remains of an exited container: its record, message and log.
func (r *Runtime) Forget(id string) {
	r.mu.Lock()
	e, ok := r.containers[id]
	if !ok || e.State != Exited {
		r.mu.Unlock()
		return
	}
	delete(r.containers, id)
	c := e.Container
	r.mu.Unlock()
	r.records.Lock()
	defer r.records.Unlock()
	_ = os.Remove(r.recordPath(&c))
	_ = os.Remove(r.messagePath(&c))
	if err := removeLogs(c.LogPath); err != nil {
		slog.Warn("log of an earlier attempt not removed", "container", id, "err", err)
	}
}

// ForgetPod removes the pod's records and its state folder. Its containers must have exited. All
// mounts below it, whoever made them, are detached.
func (r *Runtime) ForgetPod(podUID string) error {
	r.reapPod(podUID, true)
	for _, c := range r.Containers() {
		if c.PodUID == podUID {
			r.Forget(c.ID)
		}
	}
	r.locks.Delete(podUID)
	if err := confine.RemoveAll(r.PodDir(podUID)); err != nil {
		return fmt.Errorf("remove pod folder: %w", err)
	}
	return nil
}

func mountsToProto(mounts []mount.Mount) []*types.Mount {
	list := make([]*types.Mount, 0, len(mounts))
	for _, m := range mounts {
		list = append(list, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return list
}

// Remove removes a container that was created but not started.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	r.mu.Lock()
	e, ok := r.containers[id]
	if !ok || e.State != Created {
		r.mu.Unlock()
		return fmt.Errorf("container %s is not waiting to be started", id)
	}
	delete(r.containers, id)
	r.mu.Unlock()
	r.discard(r.ctx(ctx), id)
	r.cfg.Logs.Close(id)
	return nil
}

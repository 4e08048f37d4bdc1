package runtime

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"

	"github.com/skep-io/skep/agent/confine"
	"github.com/skep-io/skep/backoff"
)

// Run follows containerd's events until ctx ends. When the stream breaks (containerd ended) it
// subscribes again and then compares, in this order, so that no exit is missed.
func (r *Runtime) Run(ctx context.Context) error {
	ctx = r.ctx(ctx)
	for wait := backoff.New(20*time.Millisecond, 2*time.Second); ; {
		began := time.Now()
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		slog.Warn("containerd's event stream ended; subscribing again", "err", err)
		if time.Since(began) > 10*time.Second {
			wait.Reset()
		}
		if wait.Wait(ctx) != nil {
			return nil
		}
	}
}

func (r *Runtime) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	envelopes, failed := r.client.EventService().Subscribe(ctx,
		`namespace==`+Namespace+`,topic=="/tasks/exit"`,
		`namespace==`+Namespace+`,topic~="^/images/"`)
	if _, err := r.client.IsServing(ctx); err != nil {
		return err
	}
	r.images.clear()
	adopted := make(chan error, 1)
	go func() { adopted <- r.adopt(ctx, false) }()
	for {
		select {
		case e := <-envelopes:
			r.handle(e)
		case err := <-adopted:
			if err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

func (r *Runtime) handle(e *events.Envelope) {
	if strings.HasPrefix(e.Topic, "/images/") {
		r.images.clear()
		return
	}
	decoded, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		slog.Warn("unreadable containerd event", "topic", e.Topic, "err", err)
		return
	}
	if exit, ok := decoded.(*apievents.TaskExit); ok && exit.ID == exit.ContainerID {
		r.exited(exit.ContainerID, int(exit.ExitStatus), exit.ExitedAt.AsTime())
	}
}

// exited marks a running container as exited, once. The subscriber is called first; the record is
// on disk before the task is deleted, so the exit can be reported again after a crash at any point.
func (r *Runtime) exited(id string, code int, at time.Time) {
	r.mu.Lock()
	e, ok := r.containers[id]
	if !ok || e.State != Running {
		if ok && e.State == Created {
			// The exit came before Start's answer: Start reports it.
			e.ExitCode, e.FinishedAt = code, at
		}
		r.mu.Unlock()
		return
	}
	e.State, e.Pid, e.ExitCode, e.FinishedAt = Exited, 0, code, at
	e.Reason = exitReason(code)
	if code != 0 && oomKilled(e.CgroupPath) {
		e.Reason = "OOMKilled"
	}
	e.Message = r.terminationMessage(&e.Container)
	c, subscriber := e.Container, r.subscriber
	close(e.exited)
	r.mu.Unlock()

	if subscriber != nil {
		subscriber(c)
	}
	r.work.Go(func() {
		if !r.recordExit(e) {
			return // the next agent gets the exit from containerd
		}
		if c.Interactive() {
			e.hurry() // attached clients wait for the end of the log
		}
		r.reap(e)
	})
}

// recordExit returns when the exit is on the disk, or is not needed any more. While the disk is
// full containerd keeps the task, which has the exit too. It returns false if the agent ends first.
func (r *Runtime) recordExit(e *entry) bool {
	ctx, cancel := context.WithCancel(e.kept)
	defer cancel()
	defer context.AfterFunc(r.open, cancel)()
	save := backoff.Retry{
		First: 100 * time.Millisecond, Last: 10 * time.Second, Level: slog.LevelError, Attrs: []any{"container", e.ID},
		Failing: "exit not recorded; trying again, and its task stays in containerd until then", Working: "exit recorded",
	}
	err := save.Do(ctx, func(context.Context) error { return r.saveRecord(e.ID) })
	return err == nil || r.open.Err() == nil
}

// reapDelay is how long an ended task is kept: if its container is restarted at once, the new task
// uses the pod's shim, and no new shim is started.
const reapDelay = 300 * time.Millisecond

func (r *Runtime) reap(e *entry) {
	timer := time.NewTimer(reapDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.reapNow:
	}
	r.cleanUp(e.ID)
	close(e.reaped)
}

// reapPod removes a pod's ended tasks without delay; with wait it returns when all are removed.
func (r *Runtime) reapPod(podUID string, wait bool) {
	r.mu.Lock()
	var ended []*entry
	for _, e := range r.containers {
		if e.PodUID == podUID && e.State == Exited {
			e.hurry()
			ended = append(ended, e)
		}
	}
	r.mu.Unlock()
	for _, e := range ended {
		if wait {
			e.abandon()
			<-e.reaped
		}
	}
}

func exitReason(code int) string {
	switch code {
	case 0:
		return "Completed"
	case exitLost:
		return "Unknown"
	}
	return "Error"
}

// maxMessage is how much of a termination message the API keeps.
const maxMessage = 4096

func (r *Runtime) terminationMessage(c *Container) string {
	data, _ := confine.ReadRegular(r.messagePath(c), maxMessage) // a container without the file has no message
	message := string(data)
	if message == "" && c.ExitCode != 0 && c.TerminationMessagePolicy == "FallbackToLogsOnError" {
		return logTail(c.LogPath)
	}
	return message
}

// logTail is the end of a CRI log without its prefixes: at most 80 lines or
// 2048 bytes, as the API promises.
func logTail(path string) string {
	f, err := confine.OpenRegular(path, os.O_RDONLY)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > window {
		_, _ = f.Seek(-window, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, window))
	lines := strings.SplitAfter(string(data), "\n")
	if len(lines) > 81 {
		lines = lines[len(lines)-81:]
	}
	var b strings.Builder
	for _, line := range lines {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			b.WriteString(fields[3])
		}
	}
	text := b.String()
	if len(text) > 2048 {
		text = text[len(text)-2048:]
	}
	return text
}

// cleanUp removes an exited container from containerd. Its record and its log stay until Forget.
func (r *Runtime) cleanUp(id string) {
	ctx, cancel := context.WithTimeout(r.ctx(context.Background()), time.Minute)
	defer cancel()
	if e, ok := r.lookup(id); ok {
		// Not while a task of the pod is being created: that may be about to join the shim that
		// ends with this one.
		lock := r.podLock(e.PodUID)
		lock.Lock()
		defer lock.Unlock()
	}
	r.discard(ctx, id)
	r.cfg.Logs.Close(id)
}

// discard removes task, container and snapshot, if they exist.
func (r *Runtime) discard(ctx context.Context, id string) {
	_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		// Still running: only created, left by a failed start, or its record was wrong. The shim's
		// error for that has no code of its own.
		_, _ = r.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: 9, All: true})
		_, err = r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
		if err == nil {
			_, err = r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		}
		err = errgrpc.ToNative(err)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		slog.Warn("task not deleted", "container", id, "err", err)
		return
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		slog.Warn("container not deleted", "container", id, "err", err)
		return
	}
	if err := r.snapshotter().Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		slog.Warn("snapshot not removed", "container", id, "err", err)
	}
	if err := os.RemoveAll(r.stdinDir(id)); err != nil {
		slog.Warn("standard input's FIFO not removed", "container", id, "err", err)
	}
}

package pod

import (
	"context"
	"io"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
)

// containers are the functions of package runtime that a worker uses for its containers.
type containers interface {
	ImageExists(ctx context.Context, image string) (bool, error)
	Image(ctx context.Context, image string) (runtime.Image, error)
	Pull(ctx context.Context, image string, always bool, creds runtime.Credentials) error
	Prepare(ctx context.Context, podUID, image string) (*runtime.Prepared, error)
	Discard(ctx context.Context, p *runtime.Prepared) error
	Create(ctx context.Context, p *runtime.Prepared, cfg runtime.ContainerConfig) (runtime.Container, error)
	Start(ctx context.Context, id string) (runtime.Container, error)
	Exec(ctx context.Context, id string, command []string, o runtime.ExecOptions) (int, error)
	Terminate(ctx context.Context, id string) error
	Kill(ctx context.Context, id string) error
	Container(id string) (runtime.Container, bool)
	Remove(ctx context.Context, id string) error
	Forget(id string)
}

// Names of tasks. A probe's task has the name of its kind.
const (
	pullTask      = "pull"
	preStopTask   = "preStop"
	postStartTask = "postStart"
)

// carryOut carries out an action of the state machine. What takes time runs in another goroutine,
// which posts its result.
func (w *worker) carryOut(action life.Action) {
	switch a := action.(type) {
	case life.SetUp:
		w.setUp()
	case life.AbandonSetup:
		w.setup.giveUp()
	case life.PullImage:
		ctx, pod, spec := w.begin(pullTask, a.Container), w.pod, w.spec(a.Container)
		w.beside(func(context.Context) life.Event { return w.ensureImage(ctx, pod, spec) })
	case life.AbandonPull:
		w.end(pullTask, a.Container)
	case life.CreateContainer:
		pod, spec, s := w.pod, w.spec(a.Container), w.setup
		w.beside(func(ctx context.Context) life.Event { return w.create(ctx, pod, spec, s, a.Number) })
	case life.StartContainer:
		pod, s := w.pod, w.setup
		w.beside(func(ctx context.Context) life.Event { return w.start(ctx, pod, s, a.Container, a.ID) })
	case life.DiscardContainer:
		w.beside(func(ctx context.Context) life.Event { w.discardCreated(ctx, a.Container, a.ID); return nil })
	case life.ForgetContainer:
		w.runtime.Forget(a.ID)
	case life.RunPreStop:
		w.runPreStop(a)
	case life.EndPreStop:
		w.end(preStopTask, a.Container)
	case life.SignalContainer:
		w.beside(func(ctx context.Context) life.Event {
			err := w.runtime.Terminate(ctx, a.ID)
			return w.exitOr(a.Container, a.ID, err, life.SignalFailed{Container: a.Container, ID: a.ID, Err: err})
		})
	case life.KillContainer:
		w.beside(func(ctx context.Context) life.Event {
			err := w.runtime.Kill(ctx, a.ID)
			return w.exitOr(a.Container, a.ID, err, life.KillFailed{Container: a.Container, ID: a.ID, Err: err})
		})
	case life.RunPostStart:
		w.runPostStart(a)
	case life.EndPostStart:
		w.end(postStartTask, a.Container)
	case life.WatchProbe:
		w.watchProbe(a)
	case life.EndProbe:
		w.end(string(a.Kind), a.Container)
	case life.WithdrawAddress:
		w.address.withdraw(w.pods.cfg.Plane)
	case life.RestoreAddress:
		w.address.restore()
	case life.Drain:
		w.drain(a.Limit)
	case life.RefreshVolumes:
		w.refreshVolumes()
	case life.Release:
		w.release()
	case life.Remove:
		w.remove(a)
	case life.WriteStatus:
		w.statusChanged(a.Status)
		w.writer.write(a.Status)
	case life.Report:
		w.report(a)
	case life.LogError:
		w.log().Error(a.Message, "container", a.Container, "err", a.Err)
	}
}

// attemptOf converts a container to the state machine's form; false for one that was never started.
func attemptOf(c runtime.Container) (life.Attempt, bool) {
	a := life.Attempt{ID: c.ID, Number: c.Attempt, Image: c.Image, ImageID: c.ImageID, User: userStatus(c.User), StartedAt: c.StartedAt}
	if c.State == runtime.Exited {
		exit := exitOf(c)
		a.Exit = &exit
	}
	return a, c.State != runtime.Created
}

func exitOf(c runtime.Container) life.Exit {
	return life.Exit{Code: c.ExitCode, Reason: c.Reason, Message: c.Message, FinishedAt: c.FinishedAt}
}

// execIn runs commands of probes and hooks in one attempt of a container.
func (w *worker) execIn(id string) func(ctx context.Context, command []string, output io.Writer) (int, error) {
	return func(ctx context.Context, command []string, output io.Writer) (int, error) {
		both := &sharedWriter{to: output}
		return w.runtime.Exec(ctx, id, command, runtime.ExecOptions{Stdout: both, Stderr: both})
	}
}

func userStatus(u *runtime.User) *corev1.ContainerUser {
	if u == nil {
		return nil
	}
	linux := &corev1.LinuxContainerUser{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.Groups {
		linux.SupplementalGroups = append(linux.SupplementalGroups, int64(g))
	}
	return &corev1.ContainerUser{Linux: linux}
}

package pod

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/volume"
)

// create creates a container whose image is present: its root file system, then, as soon as the
// pod's namespaces and volumes exist, the container.
func (w *worker) create(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup, attempt int) life.Event {
	prepared, err := w.runtime.Prepare(ctx, w.uid, spec.Image)
	if err != nil {
		return w.attemptFailed(ctx, spec.Name, life.CreateFailed, err)
	}
	cfg, failure := w.containerConfig(ctx, pod, spec, s, attempt)
	if failure != nil {
		if err := w.runtime.Discard(context.WithoutCancel(ctx), prepared); err != nil {
			w.log().Warn("prepared root file system not removed; the agent's next start removes it", "err", err)
		}
		return failure
	}
	created, err := w.runtime.Create(ctx, prepared, cfg)
	var invalid *runtime.ConfigError
	var impossible *runtime.CreateError
	switch {
	case errors.As(err, &impossible):
		return w.attemptFailed(ctx, spec.Name, life.CreateFailed, err)
	case errors.As(err, &invalid):
		return w.attemptFailed(ctx, spec.Name, life.ConfigInvalid, err)
	case err != nil:
		// containerd creates the process here; kubelet reports errors of that (no such command) as
		// a failure to run.
		return w.attemptFailed(ctx, spec.Name, life.RunFailed, err)
	}
	w.containerEvent(spec.Name, corev1.EventTypeNormal, "Created", "Container created")
	return life.ContainerCreated{Container: spec.Name, ID: created.ID}
}

// start lets a created container run when the network is up.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, s *setup, name, id string) life.Event {
	if err := s.network.wait(ctx); err != nil {
		w.discardCreated(ctx, name, id)
		return life.AttemptAbandoned{Container: name}
	}
	if err := w.writeHosts(pod, s); err != nil {
		w.discardCreated(ctx, name, id)
		return w.attemptFailed(ctx, name, life.CreateFailed, err)
	}
	started, err := w.runtime.Start(ctx, id)
	if err != nil {
		return w.attemptFailed(ctx, name, life.RunFailed, err)
	}
	w.containerEvent(name, corev1.EventTypeNormal, "Started", "Container started")
	attempt, _ := attemptOf(started)
	return life.ContainerStarted{Container: name, Attempt: attempt}
}

func (w *worker) attemptFailed(ctx context.Context, name string, kind life.FailureKind, err error) life.Event {
	if ctx.Err() != nil {
		return life.AttemptAbandoned{Container: name}
	}
	w.containerEvent(name, corev1.EventTypeWarning, "Failed", "Error: %v", err)
	return life.AttemptFailed{Container: name, Failure: life.Failure{Kind: kind, Message: err.Error()}}
}

func (w *worker) discardCreated(ctx context.Context, name, id string) {
	if err := w.runtime.Remove(context.WithoutCancel(ctx), id); err != nil {
		w.log().Warn("created container not removed; the agent's next start removes it", "container", name, "id", id, "err", err)
	}
}

// containerConfig turns the pod's specification into the runtime's configuration. It waits for the
// parts of the setup that the container needs. The event, if any, says why there is no
// configuration.
func (w *worker) containerConfig(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup, attempt int) (runtime.ContainerConfig, life.Event) {
	var cfg runtime.ContainerConfig
	abandoned := life.AttemptAbandoned{Container: spec.Name}
	if err := w.usersRefused(pod); err != nil {
		return cfg, w.attemptFailed(ctx, spec.Name, life.ConfigInvalid, err)
	}
	if s.volumes.wait(ctx) != nil || s.namespaces.wait(ctx) != nil {
		return cfg, abandoned
	}
	// Only these need the address before the process exists; the others are
	// created while the network is still being made.
	if needsAddress(pod, spec) && s.network.wait(ctx) != nil {
		return cfg, abandoned
	}
	env, err := w.environment(ctx, pod, spec, s)
	if err != nil {
		return cfg, w.attemptFailed(ctx, spec.Name, life.ConfigInvalid, err)
	}
	mounts, err := w.mounts(s.ctx, pod, spec, s)
	if err != nil {
		return cfg, w.attemptFailed(ctx, spec.Name, life.ConfigInvalid, err)
	}
	confined, err := w.confinement(pod, spec)
	if err != nil {
		return cfg, w.attemptFailed(ctx, spec.Name, life.ConfigInvalid, err)
	}
	cfg = runtime.ContainerConfig{
		PodNamespace: w.key.Namespace, PodName: w.key.Name, PodUID: w.uid,
		Name: spec.Name, Attempt: attempt, SpecHash: specHash(spec),
		Env: env.list, WorkingDir: spec.WorkingDir,
		Stdin: spec.Stdin, StdinOnce: spec.StdinOnce, TTY: spec.TTY,
		Mounts: mounts, Security: confined, Resources: w.resources(pod, spec),
		Sandbox: s.sandbox, HostPID: pod.Spec.HostPID,
		TerminationMessagePath:   spec.TerminationMessagePath,
		TerminationMessagePolicy: string(spec.TerminationMessagePolicy),
	}
	for _, arg := range spec.Command {
		cfg.Command = append(cfg.Command, env.expand(arg))
	}
	for _, arg := range spec.Args {
		cfg.Args = append(cfg.Args, env.expand(arg))
	}
	if share := pod.Spec.ShareProcessNamespace; share != nil && *share {
		cfg.PIDNS = w.sharedPIDNamespace(pod, spec.Name)
	}
	if err := w.writeNetworkFiles(pod); err != nil {
		return cfg, w.attemptFailed(ctx, spec.Name, life.CreateFailed, err)
	}
	return cfg, nil
}

// mounts places the pod's volumes and network files in the container.
func (w *worker) mounts(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup) ([]runtime.Mount, error) {
	var list []runtime.Mount
	taken := map[string]bool{}
	readOnly := map[string]bool{}
	for i := range pod.Spec.Volumes {
		readOnly[pod.Spec.Volumes[i].Name] = volume.ReadOnly(&pod.Spec.Volumes[i])
	}
	for i, m := range spec.VolumeMounts {
		source, ok := s.paths[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, spec.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			env, err := w.environment(ctx, pod, spec, s)
			if err != nil {
				return nil, err
			}
			sub = env.expand(m.SubPathExpr)
		}
		if sub != "" {
			var err error
			if source, err = w.pods.volumes.SubPath(ctx, w.uid, m.Name, spec.Name, i, source, sub); err != nil {
				return nil, err
			}
		}
		recursive, err := life.RecursiveReadOnly(&m, w.pods.cfg.Runtime.Features().RecursiveReadOnly)
		if err != nil {
			return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
		}
		mount := runtime.Mount{Source: source, Destination: m.MountPath, ReadOnly: m.ReadOnly || readOnly[m.Name], RecursiveReadOnly: recursive}
		if p := m.MountPropagation; p != nil {
			switch *p {
			case corev1.MountPropagationHostToContainer:
				mount.Propagation = "rslave"
			case corev1.MountPropagationBidirectional:
				mount.Propagation = "rshared"
			}
		}
		taken[filepath.Clean(m.MountPath)] = true
		list = append(list, mount)
	}
	for _, file := range []string{"hosts", "resolv.conf", "hostname"} {
		if destination := "/etc/" + file; !taken[destination] {
			list = append(list, runtime.Mount{Source: w.networkFile(file), Destination: destination})
		}
	}
	return list, w.pods.volumes.EnsureHostPaths(ctx, pod)
}

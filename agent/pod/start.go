package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/probe"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/volume"
)

// waitError is a start that did not come about, as the status shows it.
type waitError struct {
	reason, message string
	pull            bool // waits with the pull's back-off, not the container's
	silent          bool // the setup failed and has said so itself
}

func (e *waitError) Error() string { return e.reason + ": " + e.message }

// beginStart runs the next attempt beside the worker.
func (w *worker) beginStart(c *containerState) {
	c.starting = true
	wanted, giveUp := context.WithCancel(w.ctx)
	c.giveUp = giveUp
	pod, spec, s, attempt := w.pod, w.spec(c.name), w.setup, c.next
	w.beside(func(ctx context.Context) func() {
		defer giveUp()
		// Only the image is given up: from then on the start takes no longer than a stop, and has things to leave behind.
		if failure := w.ensureImage(wanted, pod, spec); failure != nil {
			return func() { w.startDone(c, nil, failure) }
		}
		started, failure := w.start(ctx, pod, spec, s, attempt)
		return func() { w.startDone(c, started, failure) }
	})
}

// start makes one attempt with an image that is there: root file system, then,
// as soon as the pod's namespaces and volumes exist, the container; it is let
// go when the network is up.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup, attempt int) (*runtime.Container, *waitError) {
	rt := w.pods.cfg.Runtime
	prepared, err := rt.Prepare(ctx, w.uid, spec.Image)
	if err != nil {
		return nil, w.startFailed(ctx, spec.Name, reasonCreateError, err)
	}
	cfg, failure := w.containerConfig(ctx, pod, spec, s, attempt)
	if failure != nil {
		if err := rt.Discard(context.WithoutCancel(ctx), prepared); err != nil {
			w.log().Warn("prepared root file system stays until the next start", "err", err)
		}
		return nil, failure
	}
	created, err := rt.Create(ctx, prepared, cfg)
	var invalid *runtime.ConfigError
	var impossible *runtime.CreateError
	switch {
	case errors.As(err, &impossible):
		return nil, w.startFailed(ctx, spec.Name, reasonCreateError, err)
	case errors.As(err, &invalid):
		return nil, w.startFailed(ctx, spec.Name, reasonConfigError, err)
	case err != nil:
		// containerd makes the process here; kubelet's users know what goes
		// wrong in it (no such command) as a failure to run.
		return nil, w.startFailed(ctx, spec.Name, reasonRunError, err)
	}
	w.containerEvent(spec.Name, corev1.EventTypeNormal, "Created", "Container created")
	if err := s.network.wait(ctx); err != nil {
		w.discardCreated(created.ID)
		return nil, &waitError{reason: reasonCreating, silent: true}
	}
	if err := w.writeHosts(pod, s); err != nil {
		w.discardCreated(created.ID)
		return nil, w.startFailed(ctx, spec.Name, reasonCreateError, err)
	}
	started, err := rt.Start(ctx, created.ID)
	if err != nil {
		return nil, w.startFailed(ctx, spec.Name, reasonRunError, err)
	}
	w.containerEvent(spec.Name, corev1.EventTypeNormal, "Started", "Container started")
	return &started, nil
}

func (w *worker) startFailed(ctx context.Context, name, reason string, err error) *waitError {
	if ctx.Err() != nil {
		return &waitError{reason: reasonCreating, silent: true}
	}
	w.containerEvent(name, corev1.EventTypeWarning, "Failed", "Error: %v", err)
	return &waitError{reason: reason, message: err.Error()}
}

func (w *worker) discardCreated(id string) {
	if err := w.pods.cfg.Runtime.Remove(context.WithoutCancel(w.ctx), id); err != nil {
		w.log().Warn("created container stays until the next start", "container", id, "err", err)
	}
}

// startDone takes over what the start came to.
func (w *worker) startDone(c *containerState, started *runtime.Container, failure *waitError) {
	c.starting = false
	now := time.Now()
	if failure != nil {
		switch {
		case failure.silent:
			c.waiting, c.message = "", ""
		case failure.pull:
			c.waiting, c.message = failure.reason, failure.message
			c.pullErr = failure.reason + ": " + failure.message
			c.pull.next(now, now)
		default:
			c.waiting, c.message = failure.reason, failure.message
			if !c.exited() {
				c.restart.next(now, now)
			}
		}
		return
	}
	if fresh, ok := w.pods.cfg.Runtime.Container(started.ID); ok {
		started = &fresh // it may have exited before we got here
	}
	if c.last != nil {
		w.pods.cfg.Runtime.Forget(c.last.ID)
	}
	c.last, c.current, c.next = c.current, started, started.Attempt+1
	c.waiting, c.message = "", ""
	c.pull.clear()
	if c.running() {
		w.startProbes(c)
		w.runPostStart(c)
	}
}

// startProbes watches a running container and, without probes, settles what
// they would.
func (w *worker) startProbes(c *containerState) {
	spec := w.spec(c.name)
	c.stopProbes()
	ctx, cancel := context.WithCancel(w.ctx)
	mortal, spare := context.WithCancel(ctx)
	c.probes, c.mortal = cancel, spare
	if spec.StartupProbe == nil {
		c.started = true
	}
	if spec.StartupProbe != nil && !c.started {
		w.watchProbe(mortal, c, probe.Startup, spec.StartupProbe, false)
		return // the others begin when it has succeeded
	}
	w.startSteadyProbes(ctx, mortal, c, spec)
}

// startSteadyProbes begins those that last as long as the container; mortal ends
// the one whose failure would end it.
func (w *worker) startSteadyProbes(ctx, mortal context.Context, c *containerState, spec *corev1.Container) {
	if spec.LivenessProbe != nil {
		w.watchProbe(mortal, c, probe.Liveness, spec.LivenessProbe, true)
	}
	if spec.ReadinessProbe == nil {
		c.ready = true
		return
	}
	w.watchProbe(ctx, c, probe.Readiness, spec.ReadinessProbe, c.ready)
}

func (w *worker) watchProbe(ctx context.Context, c *containerState, kind probe.Kind, p *corev1.Probe, initial bool) {
	current, spec := *c.current, w.spec(c.name)
	target := probe.Target{
		Host: w.probeHost(), Container: spec,
		Exec: w.execFor(current.ID),
	}
	w.work.Go(func() {
		probe.Watch(ctx, kind, p, target, current.StartedAt, initial, func(r probe.Report) {
			w.probeEvent(spec.Name, r)
			if !r.Changed {
				return
			}
			if kind == probe.Readiness && !r.OK {
				w.withdrawFor(spec.Name) // before anyone else hears of it
			}
			w.post(func() { w.probed(ctx, c, current.ID, r) })
		})
	})
}

func (w *worker) probeHost() string {
	if addrs := w.addresses(); len(addrs) > 0 {
		return addrs[0].String()
	}
	if len(w.pods.cfg.NodeIPs) > 0 {
		return w.pods.cfg.NodeIPs[0].String()
	}
	return "127.0.0.1"
}

func (w *worker) probeEvent(name string, r probe.Report) {
	switch {
	case r.Outcome.Err != nil:
		w.containerEvent(name, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in %s state: %s", r.Kind, "unknown", r.Outcome.Err)
	case r.Outcome.Warning:
		w.containerEvent(name, corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", r.Kind, r.Outcome.Output)
	case !r.Outcome.OK:
		w.containerEvent(name, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", r.Kind, r.Outcome.Output)
	}
}

// probed applies a settled answer, unless it is about an earlier attempt.
func (w *worker) probed(ctx context.Context, c *containerState, id string, r probe.Report) {
	if !c.running() || c.current.ID != id || ctx.Err() != nil {
		return
	}
	switch r.Kind {
	case probe.Readiness:
		c.ready = r.OK
	case probe.Startup:
		if r.OK {
			c.started = true
			w.startProbes(c)
			return
		}
		w.restartContainer(c, fmt.Sprintf("Container %s failed startup probe", c.name), w.spec(c.name).StartupProbe)
	case probe.Liveness:
		if !r.OK {
			w.restartContainer(c, fmt.Sprintf("Container %s failed liveness probe", c.name), w.spec(c.name).LivenessProbe)
		}
	}
}

// restartContainer stops a container that should be alive; its exit is then
// judged as any other.
func (w *worker) restartContainer(c *containerState, why string, p *corev1.Probe) {
	grace := w.gracePeriod()
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	if w.pod.Spec.RestartPolicy != corev1.RestartPolicyNever || c.role == roleSidecar {
		why += ", will be restarted"
	}
	w.beginStop(c, grace, why)
}

// execFor runs commands of probes and hooks in one attempt of a container.
func (w *worker) execFor(id string) func(ctx context.Context, command []string, output io.Writer) (int, error) {
	return func(ctx context.Context, command []string, output io.Writer) (int, error) {
		both := &sharedWriter{to: output}
		return w.pods.cfg.Runtime.Exec(ctx, id, command, runtime.ExecOptions{Stdout: both, Stderr: both})
	}
}

// sharedWriter takes a command's two outputs, which are copied at once, into one.
type sharedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *sharedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

// containerConfig turns the pod's wish into what the runtime makes. It waits
// for what the container stands on.
func (w *worker) containerConfig(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, s *setup, attempt int) (runtime.ContainerConfig, *waitError) {
	var cfg runtime.ContainerConfig
	silent := &waitError{reason: reasonCreating, silent: true}
	if err := w.usersRefused(pod); err != nil {
		return cfg, w.startFailed(ctx, spec.Name, reasonConfigError, err)
	}
	if s.volumes.wait(ctx) != nil || s.namespaces.wait(ctx) != nil {
		return cfg, silent
	}
	// Only these need the address before the process exists; the others are
	// created while the network is still being made.
	if needsAddress(pod, spec) && s.network.wait(ctx) != nil {
		return cfg, silent
	}
	env, err := w.environment(ctx, pod, spec, s)
	if err != nil {
		return cfg, w.startFailed(ctx, spec.Name, reasonConfigError, err)
	}
	mounts, err := w.mounts(s.ctx, pod, spec, s)
	if err != nil {
		return cfg, w.startFailed(ctx, spec.Name, reasonConfigError, err)
	}
	confined, err := w.confinement(pod, spec)
	if err != nil {
		return cfg, w.startFailed(ctx, spec.Name, reasonConfigError, err)
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
		return cfg, w.startFailed(ctx, spec.Name, reasonCreateError, err)
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
		recursive, err := recursiveReadOnly(&m, w.pods.cfg.Runtime.Features().RecursiveReadOnly)
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

package pod

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/agent/runtime"
)

// Reasons of events about a pod's setup.
const (
	reasonFailedSandbox = "FailedCreatePodSandBox"
	reasonFailedMount   = "FailedMount"
)

// setup is what a pod's containers need: namespaces, network and volumes. These are made in
// parallel and waited for one by one: a container is created as soon as the namespaces and volumes
// are there, and started when the network is.
type setup struct {
	namespaces stage
	volumes    stage
	network    stage

	ctx     context.Context    // of the goroutines that make it
	giveUp  context.CancelFunc // ends ctx: the pod is to be removed
	sandbox runtime.Sandbox
	paths   map[string]string // volume name -> path on the node
	addrs   []netip.Addr      // none on the node's network
}

// stage is done when its channel closes; err and the fields it guards are
// read only afterwards.
type stage struct {
	done chan struct{}
	err  error
}

func (s *stage) finish(err error) {
	s.err = err
	close(s.done)
}

func (s *stage) wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setUp begins the setup. Each part reuses what an earlier setup, or an earlier agent, made.
func (w *worker) setUp() {
	if w.setup != nil {
		w.setup.giveUp()
	}
	s := &setup{}
	s.ctx, s.giveUp = context.WithCancel(w.ctx)
	s.namespaces.done, s.volumes.done, s.network.done = make(chan struct{}), make(chan struct{}), make(chan struct{})
	w.setup = s
	pod := w.pod
	w.work.Go(func() { w.setUpVolumes(s, pod) })
	w.beside(func(context.Context) life.Event {
		w.setUpNamespaces(s, pod)
		<-s.volumes.done
		return w.setupResult(s)
	})
}

func (w *worker) setUpNamespaces(s *setup, pod *corev1.Pod) {
	spec := &pod.Spec
	users, err := w.users(pod)
	if err != nil {
		s.namespaces.finish(err)
		s.network.finish(err)
		return
	}
	sandbox, err := w.pods.createSandbox(s.ctx, runtime.SandboxConfig{
		PodUID: w.uid, Hostname: w.hostname(pod), HostNetwork: spec.HostNetwork, HostIPC: spec.HostIPC, Users: users,
		QOS: qosClass(pod), Limits: podLimits(pod, w.pods.cfg.PodPidsLimit),
	})
	if sandbox.fresh {
		// After a reboot the address may be another; the files are written again.
		_ = os.RemoveAll(w.pods.cfg.Runtime.PodDir(w.uid) + "/etc")
	}
	s.sandbox = sandbox.Sandbox
	s.namespaces.finish(err)
	if err != nil {
		s.network.finish(err)
		return
	}
	if !spec.HostNetwork {
		err = w.attach(s, pod, sandbox.NetNS)
	}
	if err == nil {
		// Not earlier: some need the pod's interface. No process of the pod has started yet.
		err = w.pods.setSysctls(s.ctx, s.sandbox, sysctls(spec))
	}
	s.network.finish(err)
}

// attach connects the pod. A bandwidth limit that the kernel cannot enforce is only reported; an
// invalid one keeps the pod from running.
func (w *worker) attach(s *setup, pod *corev1.Pod, netns string) error {
	limits, err := bandwidth(pod.Annotations)
	if err != nil {
		return fmt.Errorf("failed to set up the pod's network: %w", err)
	}
	attachment, err := w.pods.attach(s.ctx, w.uid, netns, limits)
	if err != nil {
		return fmt.Errorf("failed to set up the pod's network: %w", err)
	}
	if attachment.Unlimited != nil {
		w.event(corev1.EventTypeWarning, reasonFailedSandbox, "The pod runs, but its %v", attachment.Unlimited)
	}
	s.addrs = attachment.Addrs
	w.setAddrs(attachment.Addrs)
	return nil
}

func (w *worker) setUpVolumes(s *setup, pod *corev1.Pod) {
	paths, warnings, err := w.pods.volumes.SetUp(s.ctx, pod)
	for _, warning := range warnings {
		w.event(corev1.EventTypeWarning, reasonFailedMount, "%v", warning)
	}
	s.paths = paths
	s.volumes.finish(err)
}

// setupResult is the result of the finished setup. Containers that wait for a part that failed give
// up by themselves.
func (w *worker) setupResult(s *setup) life.Event {
	if s.network.err == nil && s.volumes.err == nil {
		return life.SetupReady{}
	}
	if s.network.err != nil && s.ctx.Err() == nil {
		w.event(corev1.EventTypeWarning, reasonFailedSandbox, "Failed to create pod sandbox: %v", s.network.err)
	}
	if s.volumes.err != nil && s.ctx.Err() == nil {
		for _, line := range strings.Split(s.volumes.err.Error(), "\n") {
			w.event(corev1.EventTypeWarning, reasonFailedMount, "%s", line)
		}
	}
	return life.SetupFailed{}
}

// hostname is the pod's, or the node's on the node's network.
func (w *worker) hostname(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		if name, err := os.Hostname(); err == nil && w.pods.cfg.NodeName == "" {
			return name
		}
		return w.pods.cfg.NodeName
	}
	return podHostname(pod)
}

// maxHostname is the kernel's limit for a node name.
const maxHostname = 63

func podHostname(pod *corev1.Pod) string {
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	return name
}

// refreshVolumes brings configuration volumes up to date.
func (w *worker) refreshVolumes() {
	pod := w.pod
	w.beside(func(ctx context.Context) life.Event {
		_, _, err := w.pods.volumes.SetUp(ctx, pod)
		if err != nil && ctx.Err() == nil {
			w.event(corev1.EventTypeWarning, reasonFailedMount, "%v", err)
		}
		return life.VolumesRefreshed{}
	})
}

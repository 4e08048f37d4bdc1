package pod

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/runtime"
)

// worker owns one pod. Fields below the line belong to its goroutine; the
// others have their own protection.
type worker struct {
	pods *Pods
	uid  string
	key  types.NamespacedName
	ref  *corev1.Pod // as first seen, for events: never replaced

	mailMu sync.Mutex
	mail   []func()
	wake   chan struct{}

	withdrawMu sync.Mutex
	withdrawn  []func() // take withdrawals back; none while the pod is in the maps
	addrs      []netip.Addr
	serving    map[string]bool // containers whose exit withdraws the address

	filesMu sync.Mutex // hosts, resolv.conf and hostname are written once

	latest atomic.Pointer[corev1.PodStatus]
	// overruled is set when the API has another status than the one that was written.
	overruled bool
	writer    *statusWriter
	evicted   atomic.Bool // the node has decided to end it
	gaveBack  atomic.Bool // released, for others than the worker

	// ---- the goroutine's own ----

	ctx      context.Context
	work     sync.WaitGroup // operations beside the goroutine
	pod      *corev1.Pod    // shared with the cache: never changed
	gone     bool           // the API object no longer exists
	startAt  time.Time
	setup    *setup // namespaces, network, volumes; nil until begun
	setupOff backoff

	containers map[string]*containerState
	failed     *podFailure // active deadline exceeded, evicted, or rejected by this node
	ended      bool        // everything of the pod has been removed
	cleaning   bool
	clean      retry
	draining   bool   // waits for other nodes to look elsewhere
	drained    bool   // that is over: containers are told to end
	undrain    func() // ends what draining asked of this node; nil before
	released   bool   // network, namespaces and volumes have been given back
	timers     map[string]*time.Timer
	refreshing bool
}

// podFailure ends a pod from this side; rejected is one that this node never began.
type podFailure struct {
	reason, message string
	rejected        bool
	disrupted       bool          // for the node's sake
	grace           time.Duration // bounds the pod's own; 0: it does not
}

// role of a container in its pod's life.
type role int

const (
	roleInit    role = iota // runs to completion, one after the other
	roleSidecar             // an init container that stays
	roleMain
)

// containerState is what the worker knows of one container of the spec.
type containerState struct {
	name string
	role role

	current  *runtime.Container // the newest attempt; nil before the first
	last     *runtime.Container // the exited attempt before it
	next     int                // number of the next attempt
	starting bool
	giveUp   context.CancelFunc // ends the wait for the image of the start under way
	stopping bool
	grace    time.Duration // the shortest asked for while stopping
	deadline time.Time     // end of the grace period while stopping
	stop     retry
	hurry    context.CancelFunc // ends it at once

	waiting string // reason shown while nothing runs
	message string

	restart backoff // between attempts
	pull    backoff
	pullErr string

	started, ready bool
	hook           context.CancelFunc // ends the postStart hook
	probes         context.CancelFunc // all of them
	mortal         context.CancelFunc // those whose failure ends the container
}

func newWorker(p *Pods, pod *corev1.Pod) *worker {
	w := &worker{
		pods: p, uid: string(pod.UID), key: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
		wake: make(chan struct{}, 1), pod: pod, ref: pod, startAt: time.Now(),
		setupOff:   backoff{limit: min(p.cfg.MaxBackOff, 2*time.Minute)},
		containers: map[string]*containerState{}, timers: map[string]*time.Timer{}, serving: map[string]bool{},
	}
	if pod.Status.StartTime != nil {
		w.startAt = pod.Status.StartTime.Time
	}
	w.writer = newStatusWriter(p.cfg.Client, pod)
	for i := range pod.Spec.InitContainers {
		r := roleInit
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			r = roleSidecar
		}
		w.addContainer(&pod.Spec.InitContainers[i], r)
	}
	for i := range pod.Spec.Containers {
		w.addContainer(&pod.Spec.Containers[i], roleMain)
	}
	return w
}

func (w *worker) addContainer(c *corev1.Container, r role) {
	w.containers[c.Name] = &containerState{
		name: c.Name, role: r,
		restart: backoff{limit: w.pods.cfg.MaxBackOff}, pull: backoff{limit: w.pods.cfg.MaxBackOff},
	}
	if r != roleInit {
		w.serving[c.Name] = true
	}
}

// post hands the goroutine something to do. It never blocks.
func (w *worker) post(f func()) {
	w.mailMu.Lock()
	w.mail = append(w.mail, f)
	w.mailMu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run is the worker's goroutine. It ends when the pod has ended or ctx does.
func (w *worker) run(ctx context.Context) {
	w.ctx = ctx
	w.pods.objects.use(w.pod)
	w.work.Go(func() { w.writer.run(ctx) })
	w.adopt()
	w.admit()
	w.reconcile()
	for !w.ended {
		select {
		case <-ctx.Done():
			w.stopTimers()
			w.stopProbes()
			w.work.Wait()
			return
		case <-w.wake:
		}
		w.mailMu.Lock()
		mail := w.mail
		w.mail = nil
		w.mailMu.Unlock()
		for _, f := range mail {
			f()
		}
		w.reconcile()
	}
	w.stopTimers()
	w.stopProbes()
	w.writer.stop()
	w.work.Wait()
	w.restore()
	if w.undrain != nil {
		w.undrain()
	}
	w.pods.objects.release(w.uid)
}

// beside runs what takes time outside the goroutine and hands the result,
// what f returns, back to it.
func (w *worker) beside(f func(ctx context.Context) func()) {
	w.work.Go(func() {
		if result := f(w.ctx); result != nil {
			w.post(result)
		}
	})
}

// at wakes the worker at a time; a later call under the same name replaces
// an earlier one.
func (w *worker) at(name string, when time.Time) {
	if t := w.timers[name]; t != nil {
		t.Stop()
	}
	w.timers[name] = time.AfterFunc(time.Until(when), func() { w.post(func() {}) })
}

func (w *worker) stopTimers() {
	for _, t := range w.timers {
		t.Stop()
	}
}

func (w *worker) stopProbes() {
	for _, c := range w.containers {
		c.stopProbes()
	}
}

func (c *containerState) stopProbes() {
	if c.probes != nil {
		c.probes()
		c.probes, c.mortal = nil, nil
	}
}

// endHook gives up a postStart hook: its container has ended, or is to.
func (c *containerState) endHook() {
	if c.hook != nil {
		c.hook()
		c.hook = nil
	}
}

func (c *containerState) running() bool {
	return c.current != nil && c.current.State == runtime.Running
}

func (c *containerState) exited() bool {
	return c.current != nil && c.current.State == runtime.Exited
}

func (c *containerState) succeeded() bool { return c.exited() && c.current.ExitCode == 0 }

// spec returns the container's part of the pod; containers neither come nor
// go in a pod's life.
func (w *worker) spec(name string) *corev1.Container { return specOf(w.pod, name) }

func specOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// adopt takes over what already lives of the pod.
func (w *worker) adopt() {
	for _, c := range w.pods.containersOf(w.uid) {
		state := w.containers[c.Name]
		if state == nil || c.State == runtime.Created {
			continue
		}
		if state.current != nil {
			state.last = state.current
		}
		state.current, state.next = &c, c.Attempt+1
	}
	for _, status := range append(append([]corev1.ContainerStatus(nil), w.pod.Status.InitContainerStatuses...), w.pod.Status.ContainerStatuses...) {
		state := w.containers[status.Name]
		if state == nil {
			continue
		}
		if n := int(status.RestartCount); state.current == nil && n >= state.next && status.ContainerID != "" {
			state.next = n + 1 // its record is lost (a new disk): do not count from zero
		}
		if state.running() && status.ContainerID == containerID(state.current) {
			state.ready = status.Ready
			state.started = status.Started != nil && *status.Started
		}
	}
	w.adoptEviction()
	for _, state := range w.containers {
		if state.running() {
			w.startProbes(state)
		}
	}
}

func containerID(c *runtime.Container) string { return "containerd://" + c.ID }

func (w *worker) setPod(pod *corev1.Pod) {
	w.pod = pod
	w.pods.objects.use(pod)
	if w.writer.setPod(pod) {
		w.overruled = true
	}
	w.refreshVolumes()
}

func (w *worker) removed() { w.gone = true }

func (w *worker) objectsChanged() {
	w.refreshVolumes()
	// A container that waited for its configuration need not wait longer.
	for _, c := range w.containers {
		if c.waiting == reasonConfigError {
			c.restart.clear()
		}
	}
	if w.setup != nil && w.setup.failed {
		w.setupOff.clear()
	}
}

// exited is told by the runtime.
func (w *worker) exited(exited runtime.Container) {
	c := w.containers[exited.Name]
	if c == nil || c.current == nil || c.current.ID != exited.ID || c.exited() {
		return
	}
	c.current = &exited
	c.started, c.ready = false, false
	c.stopProbes()
	c.endHook()
}

// withdrawFor takes the pod's address out of the service maps because one of
// its containers died. It is called from any goroutine.
func (w *worker) withdrawFor(container string) {
	w.withdrawMu.Lock()
	defer w.withdrawMu.Unlock()
	if w.serving[container] {
		w.withdrawLocked()
	}
}

func (w *worker) withdraw() {
	w.withdrawMu.Lock()
	defer w.withdrawMu.Unlock()
	w.withdrawLocked()
}

func (w *worker) withdrawLocked() {
	if len(w.withdrawn) > 0 {
		return
	}
	for _, addr := range w.addrs {
		w.withdrawn = append(w.withdrawn, w.pods.cfg.Plane.WithdrawAddress(addr))
	}
}

// restore lets the address back in, when the pod is ready again or no more.
func (w *worker) restore() {
	w.withdrawMu.Lock()
	defer w.withdrawMu.Unlock()
	for _, restored := range w.withdrawn {
		restored()
	}
	w.withdrawn = nil
}

// setAddrs names the pod's own addresses; a pod on the node's network has none.
func (w *worker) setAddrs(addrs []netip.Addr) {
	w.withdrawMu.Lock()
	w.addrs = addrs
	w.withdrawMu.Unlock()
	w.pods.cfg.HostPorts.SetHostPorts(w.ref, addrs)
}

func (w *worker) addresses() []netip.Addr {
	w.withdrawMu.Lock()
	defer w.withdrawMu.Unlock()
	return w.addrs
}

func (w *worker) published() *corev1.PodStatus { return w.latest.Load() }

func (w *worker) log() *slog.Logger {
	return slog.With("pod", w.key.String(), "uid", w.uid)
}

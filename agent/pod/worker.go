package pod

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/pod/life"
)

// worker runs one pod: it passes events to the state machine, which decides, and carries out its
// actions. Fields below the line belong to its goroutine; the others have their own protection.
type worker struct {
	pods    *Pods
	runtime containers
	uid     string
	key     types.NamespacedName
	ref     *corev1.Pod // as first seen, for events: never replaced
	seenAt  time.Time

	eventsMu sync.Mutex
	events   []life.Event
	wake     chan struct{}

	address address
	filesMu sync.Mutex // hosts, resolv.conf and hostname are written once

	latest  atomic.Pointer[corev1.PodStatus]
	writer  *statusWriter
	evicted atomic.Bool // the node has decided to end it
	// released says that nothing runs and the pod's resources were released.
	released atomic.Bool

	// ---- the goroutine's own ----

	ctx     context.Context
	work    sync.WaitGroup // operations in other goroutines
	pod     *corev1.Pod    // shared with the cache: never changed
	life    *life.Pod
	setup   *setup // namespaces, network, volumes; nil until begun
	tasks   map[task]context.CancelFunc
	undrain func() // undoes draining on this node; nil before. Read when work has ended.
}

// task is an operation that can be given up: at most one of a kind and container is under way.
type task struct{ kind, container string }

func newWorker(p *Pods, pod *corev1.Pod) *worker {
	w := &worker{
		pods: p, runtime: p.cfg.Runtime, uid: string(pod.UID), key: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
		wake: make(chan struct{}, 1), pod: pod, ref: pod, seenAt: time.Now(), tasks: map[task]context.CancelFunc{},
	}
	w.writer = newStatusWriter(p.cfg.Client, pod)
	return w
}

// post hands the worker an event. It never blocks.
func (w *worker) post(e life.Event) {
	w.eventsMu.Lock()
	w.events = append(w.events, e)
	w.eventsMu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// posted returns the events that have come, in order.
func (w *worker) posted() []life.Event {
	w.eventsMu.Lock()
	defer w.eventsMu.Unlock()
	events := w.events
	w.events = nil
	return events
}

// run is the worker's goroutine. It ends when the pod has been removed or ctx ends.
func (w *worker) run(ctx context.Context) {
	w.ctx = ctx
	w.pods.objects.use(w.pod)
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	w.work.Go(func() { w.writer.run(writing) })
	w.life = life.New(life.Config{
		NodeIPs: w.pods.cfg.NodeIPs, QOSClass: qosClass(w.pod), MaxBackOff: w.pods.cfg.MaxBackOff,
		RecursiveReadOnly: func() bool { return w.pods.cfg.Runtime.Features().RecursiveReadOnly },
	}, w.pod, w.seenAt)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for events := w.found(); ; events = nil {
		w.step(append(events, w.posted()...))
		if w.life.State() == life.Removed {
			break
		}
		timer.Stop()
		if due := w.life.Wake(); !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		select {
		case <-ctx.Done():
			w.endTasks()
			w.work.Wait()
			return
		case <-timer.C:
		case <-w.wake:
		}
	}
	w.endTasks()
	stopWriting()
	w.work.Wait()
	w.address.restore()
	if w.undrain != nil {
		w.undrain()
	}
	w.pods.objects.release(w.uid)
}

// step passes events to the state machine, and carries out its actions.
func (w *worker) step(events []life.Event) {
	for i, e := range events {
		if changed, ok := e.(life.PodChanged); ok {
			w.pod = changed.Pod
			w.pods.objects.use(changed.Pod)
			changed.Overwritten = w.writer.setPod(changed.Pod)
			events[i] = changed
		}
	}
	for _, action := range w.life.Step(time.Now(), events...) {
		w.carryOut(action)
	}
}

// found returns the events of a new worker: the pod's adopted containers, an eviction or a
// rejection.
func (w *worker) found() []life.Event {
	attempts := map[string][]life.Attempt{}
	for _, c := range w.pods.containersOf(w.uid) {
		if attempt, ok := attemptOf(c); ok {
			attempts[c.Name] = append(attempts[c.Name], attempt)
		}
	}
	events := []life.Event{life.Adopted{Attempts: attempts}}
	if e, ok := w.recordedEviction(); ok {
		events = append(events, e)
	}
	if !isTerminal(w.pod) && w.pod.DeletionTimestamp == nil {
		if r := w.pods.admission(w.pod); r != nil {
			events = append(events, life.Rejected{Reason: r.reason, Message: r.message})
		}
	}
	return events
}

// beside runs a slow operation in another goroutine and posts its result, if any.
func (w *worker) beside(f func(ctx context.Context) life.Event) {
	w.work.Go(func() {
		if result := f(w.ctx); result != nil {
			w.post(result)
		}
	})
}

// begin returns the context of a task, which end cancels.
func (w *worker) begin(kind, container string) context.Context {
	w.end(kind, container)
	ctx, cancel := context.WithCancel(w.ctx)
	w.tasks[task{kind, container}] = cancel
	return ctx
}

func (w *worker) end(kind, container string) {
	t := task{kind, container}
	if cancel := w.tasks[t]; cancel != nil {
		cancel()
		delete(w.tasks, t)
	}
}

func (w *worker) endTasks() {
	for _, cancel := range w.tasks {
		cancel()
	}
}

func (w *worker) spec(container string) *corev1.Container {
	return life.ContainerSpec(w.pod, container)
}

func (w *worker) published() *corev1.PodStatus { return w.latest.Load() }

func (w *worker) log() *slog.Logger {
	return slog.With("pod", w.key.String(), "uid", w.uid)
}

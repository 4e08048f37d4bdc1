package scheduler

import (
	"container/heap"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/backoff"
)

// maxParked is after how long a pod that fits nowhere is tried again without a change that makes room for it.
const maxParked = time.Minute

// waiting is a pod that is to be scheduled.
type waiting struct {
	request *request
	seq     int64     // order of arrival
	index   int       // in the heap; -1: parked, or being worked on
	parked  bool      // out of the heap until something changes
	backoff bool      // parked because binding failed: only time, or a change of the pod, helps
	retry   time.Time // when a parked pod comes again without a reason
	changed bool      // its spec changed while it was worked on
}

// queue holds the pods to schedule: the active ones, by priority and then by age, and
// those that are parked because they fit nowhere.
type queue struct {
	mu     sync.Mutex
	clock  clock.Clock
	pods   map[types.NamespacedName]*waiting
	active waitHeap
	parked map[types.NamespacedName]*waiting
	seq    int64
	ready  chan struct{} // holds a token if active may be non-empty
	// failures are the back-offs of pods whose binding failed.
	failures *backoff.Keyed[types.NamespacedName]
}

func newQueue(clock clock.Clock, minBackoff, maxBackoff time.Duration) *queue {
	return &queue{
		clock:  clock,
		pods:   map[types.NamespacedName]*waiting{},
		parked: map[types.NamespacedName]*waiting{},
		ready:  make(chan struct{}, 1),

		failures: backoff.NewKeyed[types.NamespacedName](minBackoff, maxBackoff),
	}
}

// set adds a pod, or replaces its state; a parked pod whose spec or labels changed becomes active again.
func (q *queue) set(pod *corev1.Pod) {
	req := newRequest(pod)
	q.mu.Lock()
	defer q.mu.Unlock()
	key := keyOf(pod)
	w := q.pods[key]
	if w != nil && w.request.uid == pod.UID {
		changed := !sameNeeds(w.request, req)
		w.request = req
		switch {
		case !changed || w.index >= 0:
		case w.parked:
			q.activate(w)
		default:
			w.changed = true
		}
		return
	}
	if w != nil {
		q.drop(key, w)
	}
	q.seq++
	w = &waiting{request: req, seq: q.seq, index: -1}
	q.pods[key] = w
	q.activate(w)
}

func (q *queue) remove(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := keyOf(pod)
	if w := q.pods[key]; w != nil && w.request.uid == pod.UID {
		q.drop(key, w)
	}
}

func (q *queue) drop(key types.NamespacedName, w *waiting) {
	delete(q.pods, key)
	delete(q.parked, key)
	q.failures.Reset(key)
	if w.index >= 0 {
		heap.Remove(&q.active, w.index)
	}
	q.count()
}

// count updates the metrics. q.mu is held.
func (q *queue) count() {
	pendingActive.Set(float64(len(q.active)))
	pendingParked.Set(float64(len(q.parked)))
}

// activate puts a pod in the heap. q.mu is held.
func (q *queue) activate(w *waiting) {
	delete(q.parked, keyOf(w.request.pod))
	w.parked, w.backoff = false, false
	heap.Push(&q.active, w)
	q.count()
	q.signal()
}

// signal has the loop look at what there is to do.
func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop removes and returns the next pod, or nil if there is none.
func (q *queue) pop() *waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.active) == 0 {
		return nil
	}
	w := heap.Pop(&q.active).(*waiting)
	q.count()
	w.changed = false
	return w
}

// park requeues a pod that fits nowhere.
func (q *queue) park(w *waiting) { q.requeue(w, maxParked, false) }

// fail requeues a pod whose binding failed, with a back-off.
func (q *queue) fail(w *waiting) {
	q.requeue(w, q.failures.Next(keyOf(w.request.pod)), true)
}

func (q *queue) requeue(w *waiting, after time.Duration, backoff bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := keyOf(w.request.pod)
	if q.pods[key] != w || w.index >= 0 {
		return
	}
	if w.changed {
		q.activate(w)
		return
	}
	w.parked, w.backoff, w.retry = true, backoff, q.clock.Now().Add(after)
	q.parked[key] = w
	q.count()
}

// wake activates the parked pods for which may returns true.
func (q *queue) wake(may func(*request) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.parked {
		if !w.backoff && may(w.request) {
			q.activate(w)
		}
	}
}

// wakeDue activates the parked pods whose retry is due.
func (q *queue) wakeDue() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	for _, w := range q.parked {
		if !w.retry.After(now) {
			q.activate(w)
		}
	}
}

type waitHeap []*waiting

func (h waitHeap) Len() int { return len(h) }
func (h waitHeap) Less(i, j int) bool {
	if a, b := priority(h[i]), priority(h[j]); a != b {
		return a > b
	}
	return h[i].seq < h[j].seq
}
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *waitHeap) Push(x any) {
	w := x.(*waiting)
	w.index = len(*h)
	*h = append(*h, w)
}
func (h *waitHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.index = -1
	return w
}

func priority(w *waiting) int32 {
	if p := w.request.pod.Spec.Priority; p != nil {
		return *p
	}
	return 0
}

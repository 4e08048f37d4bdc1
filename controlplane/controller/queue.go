// Package controller holds what every control loop is built from: a queue of keys with
// back-off, typed observation of a kind's changes, and calls in growing batches. The
// loops themselves are its sub-packages; loops whose objects control others share package
// dependents. It never decides anything about objects.
package controller

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/backoff"
)

// Back-off of a key whose work failed.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Key names an object that a loop works on.
type Key struct{ Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Queue passes keys to workers: a key that is added many times before a worker gets it is
// worked on once, and never by two workers at a time.
type Queue[K comparable] struct {
	name string
	q    workqueue.TypedRateLimitingInterface[K]
}

// NewQueue makes a queue; name appears in log lines and in metrics.
func NewQueue[K comparable](name string) *Queue[K] {
	return NewQueueOn[K](name, clock.RealClock{})
}

// NewQueueOn makes a queue with a clock of the caller's.
func NewQueueOn[K comparable](name string, clock clock.WithTicker) *Queue[K] {
	return &Queue[K]{name: name, q: workqueue.NewTypedRateLimitingQueueWithConfig(limiter[K]{backoff.NewKeyed[K](minBackoff, maxBackoff)}, workqueue.TypedRateLimitingQueueConfig[K]{
		Name: name, MetricsProvider: queueMetrics{}, Clock: clock,
	})}
}

// limiter adds jitter to the back-off of keys, so that thousands that failed for one cause are not retried at once.
type limiter[K comparable] struct{ *backoff.Keyed[K] }

func (l limiter[K]) When(key K) time.Duration { return l.Next(key) }
func (l limiter[K]) Forget(key K)             { l.Reset(key) }
func (l limiter[K]) NumRequeues(key K) int    { return l.Failures(key) }

// Add asks for work on a key at once.
func (q *Queue[K]) Add(key K) { q.q.Add(key) }

// AddAfter asks for work on a key after a delay.
func (q *Queue[K]) AddAfter(key K, delay time.Duration) { q.q.AddAfter(key, delay) }

// Run works on keys until ctx ends. A key whose work fails is retried after a back-off
// that doubles with each failure in a row.
func (q *Queue[K]) Run(ctx context.Context, workers int, work func(context.Context, K) error) {
	stop := context.AfterFunc(ctx, q.q.ShutDown)
	defer stop()
	var wg sync.WaitGroup
	for range workers {
		Go(ctx, &wg, q.name, func() {
			for q.next(ctx, work) {
			}
		})
	}
	wg.Wait()
}

func (q *Queue[K]) next(ctx context.Context, work func(context.Context, K) error) bool {
	key, quit := q.q.Get()
	if quit || ctx.Err() != nil {
		return false
	}
	defer q.q.Done(key)
	err := work(ctx, key)
	switch {
	case err == nil:
		q.q.Forget(key)
	case ctx.Err() != nil:
		return false
	default:
		// A conflict means that another writer was faster; the next try sees its write.
		if !apierrors.IsConflict(err) {
			slog.Warn("Control loop failed on a key and tries again", "loop", q.name, "key", key, "err", err)
		}
		q.q.AddRateLimited(key)
	}
	return true
}

// KeyOf names an object.
func KeyOf(obj metav1.Object) Key {
	return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

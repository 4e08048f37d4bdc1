package scheduler

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
)

const (
	// binders is how many batches are written at a time.
	binders = 4
	// batch is the maximum number of bindings in one write.
	batch = 64
	// underWay is the maximum number of bindings that wait; beyond it scheduling waits for them.
	underWay = 4096
)

// binding is an assumed placement that is not written yet.
type binding struct {
	waiting *waiting
	request *request
	node    string
}

// binder writes bindings in batches while scheduling goes on: bindings that come in
// during one write are written together in the next.
type binder struct {
	s       *Scheduler
	pending chan binding
}

func newBinder(s *Scheduler) *binder {
	return &binder{s: s, pending: make(chan binding, underWay)}
}

func (b *binder) add(ctx context.Context, what binding) {
	select {
	case b.pending <- what:
	case <-ctx.Done():
	}
}

func (b *binder) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range binders {
		controller.Go(ctx, &wg, "scheduler", func() {
			for {
				select {
				case <-ctx.Done():
					return
				case first := <-b.pending:
					b.write(ctx, b.gather(first))
				}
			}
		})
	}
	wg.Wait()
}

func (b *binder) gather(first binding) []binding {
	all := []binding{first}
	for len(all) < batch {
		select {
		case next := <-b.pending:
			all = append(all, next)
		default:
			return all
		}
	}
	return all
}

func (b *binder) write(ctx context.Context, all []binding) {
	out := make([]kinds.Binding, len(all))
	for i, what := range all {
		pod := what.request.pod
		out[i] = kinds.Binding{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), Node: what.node}
	}
	errs := kinds.Bind(ctx, b.s.registry, out)
	for i, what := range all {
		var err error
		if i < len(errs) {
			err = errs[i]
		}
		b.done(ctx, what, err)
	}
}

func (b *binder) done(ctx context.Context, what binding, err error) {
	pod := what.request.pod
	if err == nil {
		b.s.recorder(pod).Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, what.node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	// It may have been written after all: if so, the cache delivers the pod as bound, and it
	// is placed again.
	bindErrors.Inc()
	b.s.cluster.forget(what.request)
	defer b.s.roomOn(what.node)
	if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		slog.Warn("Pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", what.node, "err", err)
		b.s.recorder(pod).Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	}
	b.s.queue.fail(what.waiting)
}

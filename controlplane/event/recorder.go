// Package event writes Event objects for the control loops, straight through the
// registry. It owns the correlation (a repeated event is counted, and event rates are
// limited as by client-go) and never delays or fails a loop: an event that cannot be
// written is logged and dropped.
package event

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// shards is how many events are written at a time. All events of one object
// pass through the same shard, so their order is kept.
const shards = 8

// backlog is how many events a shard holds before it drops new ones.
const backlog = 2048

// Recorder records events of one component.
type Recorder struct {
	registry  *resource.Registry
	component string
	queues    [shards]chan *corev1.Event
	now       func() time.Time
	waiting   prometheus.Gauge
}

// NewRecorder makes a recorder. Events are written while Run runs.
func NewRecorder(registry *resource.Registry, component string) *Recorder {
	r := &Recorder{registry: registry, component: component, now: time.Now, waiting: queueDepth.WithLabelValues(component)}
	for i := range r.queues {
		r.queues[i] = make(chan *corev1.Event, backlog)
	}
	return r
}

// Eventf records an event about an object. It never blocks.
func (r *Recorder) Eventf(object runtime.Object, eventType, reason, format string, args ...any) {
	ref, err := reference.GetReference(scheme.Scheme, object)
	if err != nil {
		slog.Error("Event is for an object that has no reference", "reason", reason, "err", err)
		return
	}
	r.EventfRef(*ref, eventType, reason, format, args...)
}

// EventfRef records an event about the object that ref names.
func (r *Recorder) EventfRef(ref corev1.ObjectReference, eventType, reason, format string, args ...any) {
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.NewTime(r.now())
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("%v.%x", ref.Name, now.UnixNano()),
			Namespace: namespace,
		},
		InvolvedObject:      ref,
		Reason:              reason,
		Message:             message,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
		Type:                eventType,
		Source:              corev1.EventSource{Component: r.component},
		ReportingController: r.component,
	}
	h := fnv.New32a()
	h.Write([]byte(ref.Namespace))
	h.Write([]byte{'/'})
	h.Write([]byte(ref.Name))
	select {
	case r.queues[h.Sum32()%shards] <- e:
		r.waiting.Inc()
	default:
		r.count("dropped")
		slog.Warn("Event dropped: too many wait to be written", "object", ref.Namespace+"/"+ref.Name, "reason", reason, "message", message)
	}
}

// Run writes events until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, queue := range r.queues {
		controller.Go(ctx, &wg, "events of "+r.component, func() {
			correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{})
			for {
				select {
				case <-ctx.Done():
					return
				case e := <-queue:
					r.waiting.Dec()
					r.write(ctx, correlator, e)
				}
			}
		})
	}
	wg.Wait()
}

func (r *Recorder) write(ctx context.Context, correlator *record.EventCorrelator, e *corev1.Event) {
	result, err := correlator.EventCorrelate(e)
	if err != nil {
		slog.Error("Event not correlated", "event", e.Name, "err", err)
		return
	}
	if result.Skip {
		return
	}
	written, err := r.store(ctx, result.Event, result.Patch)
	switch {
	case err == nil:
		r.count("written")
		correlator.UpdateState(written)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsNotFound(err), ctx.Err() != nil:
		// The namespace is being deleted, with its events.
	default:
		r.count("failed")
		slog.Error("Event not written", "event", e.Namespace+"/"+e.Name, "reason", e.Reason, "message", e.Message, "err", err)
	}
}

// store increments the count of an event that was written before, or creates it if it is new or has expired meanwhile.
func (r *Recorder) store(ctx context.Context, e *corev1.Event, patch []byte) (*corev1.Event, error) {
	if e.Count > 1 {
		obj, err := r.registry.Modify(ctx, kinds.Events, "", e.Namespace, e.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			return applyPatch(current.(*corev1.Event), patch)
		})
		if err == nil {
			return obj.(*corev1.Event), nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	e = e.DeepCopy()
	e.ResourceVersion, e.UID = "", ""
	obj, err := r.registry.Create(ctx, kinds.Events, e, resource.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Event), nil
}

func applyPatch(current *corev1.Event, patch []byte) (*corev1.Event, error) {
	before, err := json.Marshal(current)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Event{})
	if err != nil {
		return nil, err
	}
	changed := &corev1.Event{}
	if err := json.Unmarshal(after, changed); err != nil {
		return nil, err
	}
	changed.ResourceVersion = ""
	return changed, nil
}

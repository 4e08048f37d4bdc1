package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/backoff"
)

// statusWriter writes the newest status of one pod to the API server. States in between are skipped if the server is slower than
// the pod; while it does not answer, the newest one is kept and tried again.
type statusWriter struct {
	client kubernetes.Interface
	name   string // of the pod, with its namespace

	mu      sync.Mutex
	pod     *corev1.Pod       // newest from the API
	written *corev1.Pod       // as the API had it after our last write, or when there was nothing to write; may be newer than pod
	sent    *corev1.PodStatus // the status of that write
	pending *corev1.PodStatus
	sending bool
	wake    chan struct{}
	patch   sync.Mutex // one patch at a time, in order
}

func newStatusWriter(client kubernetes.Interface, pod *corev1.Pod) *statusWriter {
	return &statusWriter{client: client, name: pod.Namespace + "/" + pod.Name, pod: pod, wake: make(chan struct{}, 1)}
}

// setPod records the API's pod, and returns whether its status is not what was written: another client overwrote it, or a write
// that was given up arrived late.
func (s *statusWriter) setPod(pod *corev1.Pod) (overruled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pod = pod
	return s.written != nil && newer(pod, s.written) && s.pending == nil && !s.sending && differs(&pod.Status, s.sent)
}

// newer says whether a pod's state came after another's. Resource versions are numbers that grow.
func newer(a, b *corev1.Pod) bool {
	after, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && after > 0
}

// differs compares the parts of a status that the node writes.
func differs(a, b *corev1.PodStatus) bool {
	own := func(s *corev1.PodStatus) map[corev1.PodConditionType]corev1.ConditionStatus {
		all := map[corev1.PodConditionType]corev1.ConditionStatus{}
		for _, c := range s.Conditions {
			if life.OwnCondition(c.Type) {
				all[c.Type] = c.Status
			}
		}
		return all
	}
	return a.Phase != b.Phase || !maps.Equal(own(a), own(b)) || !sameContainers(a.ContainerStatuses, b.ContainerStatuses) ||
		!sameContainers(a.InitContainerStatuses, b.InitContainerStatuses)
}

// sameContainers compares statuses as they are written: what came back has whole seconds.
func sameContainers(a, b []corev1.ContainerStatus) bool {
	one, err := json.Marshal(a)
	other, otherErr := json.Marshal(b)
	return len(a) == len(b) && (len(a) == 0 || err == nil && otherErr == nil && bytes.Equal(one, other))
}

func (s *statusWriter) write(status *corev1.PodStatus) {
	s.mu.Lock()
	s.pending = status
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statusWriter) run(ctx context.Context) {
	write := backoff.Retry{
		First: 50 * time.Millisecond, Last: 5 * time.Second, Attrs: []any{"pod", s.pod.Namespace + "/" + s.pod.Name},
		Failing: "pod status not written; trying again", Working: "pod status written again",
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			_ = write.Do(ctx, s.writePending) // that ctx ended
		}
	}
}

// flush writes the last status, once: the pod is about to be removed.
func (s *statusWriter) flush(ctx context.Context, status *corev1.PodStatus) {
	s.mu.Lock()
	s.pending = status
	s.mu.Unlock()
	if err := s.writePending(ctx); err != nil && ctx.Err() == nil {
		slog.Warn("last pod status not written", "pod", s.name, "err", err)
	}
}

// writePending writes the pending status, if any. It returns an error if that must be tried again.
func (s *statusWriter) writePending(ctx context.Context) error {
	s.patch.Lock()
	defer s.patch.Unlock()
	s.mu.Lock()
	status, pod, base := s.pending, s.pod, s.pod
	if s.written != nil && !newer(s.pod, s.written) {
		// The cache may lag behind our own writes; a field that we set and now clear must be in the base, or the patch would
		// keep it.
		base = s.written
	}
	s.pending, s.sending = nil, status != nil
	s.mu.Unlock()
	if status == nil {
		return nil
	}
	err := s.send(ctx, pod, base, status)
	s.mu.Lock()
	s.sending = false
	if err == nil && newer(s.pod, s.written) && differs(&s.pod.Status, status) {
		err = errOverruled // the watch was faster than the answer
	}
	s.mu.Unlock()
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		// The pod was deleted, or is another of the same name: the status is of no use.
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = status
	}
	return err
}

// errOverruled reports a write that the API accepted, but after which the status is not the one written.
var errOverruled = errors.New("another write came in between")

func (s *statusWriter) send(ctx context.Context, pod, base *corev1.Pod, status *corev1.PodStatus) error {
	data, err := statusPatch(string(pod.UID), &base.Status, status)
	if err != nil {
		return err
	}
	if data == nil { // after a restart of the agent, for example
		s.mu.Lock()
		s.written, s.sent = base, status
		s.mu.Unlock()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	updated, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.written, s.sent = updated, status
	s.mu.Unlock()
	if differs(&updated.Status, status) {
		return errOverruled
	}
	return nil
}

// statusPatch is nil when nothing changes. The UID makes the server refuse
// it for another pod of the same name.
func statusPatch(uid string, from, to *corev1.PodStatus) ([]byte, error) {
	old, err := json.Marshal(corev1.Pod{Status: *from})
	if err != nil {
		return nil, err
	}
	next, err := json.Marshal(corev1.Pod{Status: *to})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, next, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, nil
	}
	fields["metadata"] = map[string]any{"uid": uid}
	return json.Marshal(fields)
}

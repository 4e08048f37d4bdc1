package rolling

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/kubectl/pkg/util/podutils"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// pollInterval is how often pods are looked at.
const pollInterval = 200 * time.Millisecond

// drains is how those of all pods that were removed went.
type drains struct {
	mu     sync.Mutex
	byPod  map[types.UID]string // the message of what was wrong, or ""
	ending map[types.UID]bool   // those that are not removed yet
}

// follow notes the pods of a controller until ctx ends. A pod may be gone a moment after it was drained, so that its last state is in
// the event of its removal alone.
func (u *Update) follow(ctx context.Context, rc *corev1.ReplicationController) error {
	events, err := u.Client.CoreV1().Pods(u.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(rc.Spec.Selector).String()})
	if err != nil {
		return err
	}
	go func() {
		defer events.Stop()
		for event := range events.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && metav1.IsControlledBy(pod, rc) && pod.DeletionTimestamp != nil {
				u.drains.note(pod, event.Type == watch.Deleted)
			}
		}
	}()
	return nil
}

func (d *drains) note(pod *corev1.Pod, removed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byPod == nil {
		d.byPod, d.ending = map[types.UID]string{}, map[types.UID]bool{}
	}
	if d.ending[pod.UID] = true; removed {
		delete(d.ending, pod.UID)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type != servicespec.PodDrained {
			continue
		}
		d.byPod[pod.UID] = ""
		if c.Status != corev1.ConditionTrue {
			d.byPod[pod.UID] = pod.Name + ": " + c.Message
		}
	}
}

// settle waits for a moment until the last state of every pod that ends has been noted.
func (d *drains) settle() {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		d.mu.Lock()
		ending := len(d.ending)
		d.mu.Unlock()
		if ending == 0 {
			return
		}
	}
}

// summary is for people.
func (d *drains) summary() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var problems []string
	for _, problem := range d.byPod {
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	text := fmt.Sprintf("Of the removed pods, %d got the stop signal when no client was connected any more", len(d.byPod)-len(problems))
	if len(problems) == 0 {
		return text + ", and none earlier."
	}
	return text + fmt.Sprintf(", and %d earlier, as their time was over:\n  %s", len(problems), strings.Join(problems, "\n  "))
}

// scale sets a controller's replicas and returns when as many pods are ready, and no more are there.
func (u *Update) scale(ctx context.Context, name string, replicas int32) error {
	rc, err := u.change(ctx, name, func(rc *corev1.ReplicationController) { rc.Spec.Replicas = &replicas })
	if err != nil {
		return err
	}
	deadline := time.NewTimer(u.Timeout)
	defer deadline.Stop()
	for {
		pods, err := u.podsOf(ctx, rc)
		if err != nil {
			return err
		}
		ready, waiting := u.count(pods)
		if ready == int(replicas) && len(pods) == ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("%s: timed out after %s: %d of %d pods are ready, and %d are there%s", name, u.Timeout, ready, replicas, len(pods), waiting)
		case <-time.After(pollInterval):
		}
	}
}

func (u *Update) podsOf(ctx context.Context, rc *corev1.ReplicationController) (pods []*corev1.Pod, err error) {
	list, err := u.Client.CoreV1().Pods(u.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(rc.Spec.Selector).String()})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if pod := &list.Items[i]; metav1.IsControlledBy(pod, rc) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// count counts the pods that are ready, and says what the others wait for.
func (u *Update) count(pods []*corev1.Pod) (ready int, waiting string) {
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
			waiting += "; " + pod.Name + " is ending"
		case podutils.IsPodReady(pod):
			ready++
		default:
			waiting += "; " + pod.Name + ": " + reason(pod)
		}
	}
	return ready, waiting
}

// reason says why a pod is not ready.
func reason(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil {
			return strings.TrimSuffix(fmt.Sprintf("container %s: %s: %s", s.Name, w.Reason, w.Message), ": ")
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	return string(pod.Status.Phase)
}

package replication

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/controller"
)

// podIndex knows the pods of every owner of one kind, and the ownerless ones of every
// namespace, this loop's own writes included. A pod to be deleted is doomed
// before the request is sent, and stays so until its deletion is delivered or
// the request failed: a sync in between must not count it.
type podIndex struct {
	kind   schema.GroupVersionKind
	view   *controller.View[*corev1.Pod]
	mu     sync.Mutex
	doomed map[types.UID]struct{}
}

func newPodIndex(kind schema.GroupVersionKind) *podIndex {
	return &podIndex{
		kind: kind,
		view: controller.NewView(func(pod *corev1.Pod) []controller.Key {
			return []controller.Key{groupOf(pod)}
		}),
		doomed: map[types.UID]struct{}{},
	}
}

// groupOf is named by the controller's UID, or empty for a pod that nobody controls.
func groupOf(pod *corev1.Pod) controller.Key {
	g := controller.Key{Namespace: pod.Namespace}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		g.Name = string(ref.UID)
	}
	return g
}

// deliver takes over a change from the cache. Pods that something else controls are as good as gone.
func (x *podIndex) deliver(old, cur *corev1.Pod, revision int64) {
	foreign := cur != nil && metav1.GetControllerOfNoCopy(cur) != nil && owner(cur, x.kind) == nil
	switch {
	case !foreign:
		x.view.Deliver(old, cur, cur == nil, revision)
	case old != nil:
		x.view.Deliver(old, cur, true, revision)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if old != nil && (cur == nil || cur.UID != old.UID) {
		delete(x.doomed, old.UID)
	}
	if cur != nil && cur.DeletionTimestamp != nil {
		delete(x.doomed, cur.UID)
	}
}

// wrote takes over the result of this loop's own write.
func (x *podIndex) wrote(pod *corev1.Pod) { x.view.Wrote(pod) }

func (x *podIndex) doom(pod *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doomed[pod.UID] = struct{}{}
}

func (x *podIndex) reprieve(pod *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.doomed, pod.UID)
}

// of returns the pods that set controls, and those in its namespace that nobody controls, without the doomed.
func (x *podIndex) of(set *podSet) (owned, orphans []*corev1.Pod) {
	return x.spared(controller.Key{Namespace: set.Namespace, Name: string(set.UID)}),
		x.spared(controller.Key{Namespace: set.Namespace})
}

func (x *podIndex) spared(group controller.Key) []*corev1.Pod {
	// Held over both: deliver changes the view before it lifts a doom.
	x.mu.Lock()
	defer x.mu.Unlock()
	pods := x.view.Group(group)
	list := pods[:0]
	for _, pod := range pods {
		if _, doomed := x.doomed[pod.UID]; !doomed {
			list = append(list, pod)
		}
	}
	return list
}

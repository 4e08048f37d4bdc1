package replication

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/controller"
)

// podIndex knows the pods of every owner, and the ownerless ones of every
// namespace. Its answers include this loop's own writes, also those that the
// cache has not delivered yet, so that a sync never acts on what it has already
// changed:
//
//   - a created pod is put in at once if its revision is past what was delivered;
//     if it is not and the pod is absent, then it has been deleted already;
//   - a pod to be deleted is doomed before the request is sent, and stays so until
//     its deletion is delivered, or the request failed.
type podIndex struct {
	mu        sync.Mutex
	delivered int64
	known     map[types.NamespacedName]*corev1.Pod
	owned     map[types.UID]map[string]*corev1.Pod // by owner, by pod name
	orphans   map[string]map[string]*corev1.Pod    // by namespace, by pod name
	doomed    map[types.UID]struct{}
}

func newPodIndex() *podIndex {
	return &podIndex{
		known:   map[types.NamespacedName]*corev1.Pod{},
		owned:   map[types.UID]map[string]*corev1.Pod{},
		orphans: map[string]map[string]*corev1.Pod{},
		doomed:  map[types.UID]struct{}{},
	}
}

// deliver takes over a change from the cache.
func (x *podIndex) deliver(old, cur *corev1.Pod, revision int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.delivered = max(x.delivered, revision)
	if old != nil && (cur == nil || cur.UID != old.UID) {
		delete(x.doomed, old.UID)
	}
	if cur == nil {
		x.remove(nameOf(old), revision)
		return
	}
	if cur.DeletionTimestamp != nil {
		delete(x.doomed, cur.UID)
	}
	x.put(cur)
}

// wrote takes over the result of this loop's own write.
func (x *podIndex) wrote(pod *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if controller.Revision(pod) > x.delivered {
		x.put(pod)
	}
}

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

// of returns the pods that owner controls, and those in its namespace that nobody controls, without the doomed.
func (x *podIndex) of(owner *corev1.ReplicationController) (owned, orphans []*corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.spared(x.owned[owner.UID]), x.spared(x.orphans[owner.Namespace])
}

func (x *podIndex) spared(pods map[string]*corev1.Pod) []*corev1.Pod {
	if len(pods) == 0 {
		return nil
	}
	list := make([]*corev1.Pod, 0, len(pods))
	for _, pod := range pods {
		if _, doomed := x.doomed[pod.UID]; !doomed {
			list = append(list, pod)
		}
	}
	return list
}

// put replaces what is known of a pod, unless that is newer.
func (x *podIndex) put(pod *corev1.Pod) {
	name, revision := nameOf(pod), controller.Revision(pod)
	if known := x.known[name]; known != nil && controller.Revision(known) > revision {
		return
	}
	x.remove(name, revision)
	x.known[name] = pod
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		insert(x.owned, ref.UID, pod)
	} else {
		insert(x.orphans, pod.Namespace, pod)
	}
}

// remove forgets a pod, unless what is known of it is newer than revision: a new pod of the same name.
func (x *podIndex) remove(name types.NamespacedName, revision int64) {
	known := x.known[name]
	if known == nil || controller.Revision(known) > revision {
		return
	}
	delete(x.known, name)
	if ref := metav1.GetControllerOfNoCopy(known); ref != nil {
		discard(x.owned, ref.UID, known.Name)
	} else {
		discard(x.orphans, known.Namespace, known.Name)
	}
}

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func insert[K comparable](m map[K]map[string]*corev1.Pod, key K, pod *corev1.Pod) {
	pods := m[key]
	if pods == nil {
		pods = map[string]*corev1.Pod{}
		m[key] = pods
	}
	pods[pod.Name] = pod
}

func discard[K comparable](m map[K]map[string]*corev1.Pod, key K, name string) {
	pods := m[key]
	delete(pods, name)
	if len(pods) == 0 {
		delete(m, key)
	}
}

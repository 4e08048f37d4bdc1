package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/scheduler"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// workload is the pods of one ReplicationController or ReplicaSet.
type workload struct {
	b     *board
	name  string // NAMESPACE/KIND/NAME, of the Deployment if it has one
	owner types.UID
	pods  []*corev1.Pod
	at    map[*corev1.Pod]string // where each is, or would be
	// keys are the labels by whose values it is spread, the most important first.
	keys   []string
	waits  string // why nothing of it moves for the moment
	stays  string // why nothing of it moves at all
	uneven bool   // it would move if it did not stay
}

// controlling is what a plan needs to know of a ReplicationController or a ReplicaSet.
type controlling struct {
	metav1.Object
	kind       string
	replicas   int32
	deployment *metav1.OwnerReference
}

// workloadsOf lists the workloads that may move, by name. Those of one replica are left out: it would be away until another is ready.
func workloadsOf(state scheduler.State, o Options) (all []*workload) {
	namespaces := map[string]string{}
	for _, n := range state.Namespaces {
		namespaces[n.Name] = n.Annotations[servicespec.RebalanceAnnotation]
	}
	byOwner := map[types.UID][]*corev1.Pod{}
	for _, p := range state.Pods {
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && !controller.PodTerminal(p) {
			byOwner[ref.UID] = append(byOwner[ref.UID], p)
		}
	}
	var owners []controlling
	for _, rc := range state.ReplicationControllers {
		owners = append(owners, controlling{rc, "replicationcontroller", ptr.Deref(rc.Spec.Replicas, 1), nil})
	}
	sets := map[types.UID]int{} // with pods, of a Deployment
	for _, rs := range state.ReplicaSets {
		of := controlling{rs, "replicaset", ptr.Deref(rs.Spec.Replicas, 1), metav1.GetControllerOfNoCopy(rs)}
		if owners = append(owners, of); of.deployment != nil && (of.replicas > 0 || len(byOwner[rs.UID]) > 0) {
			sets[of.deployment.UID]++
		}
	}
	for _, of := range owners {
		pods := byOwner[of.GetUID()]
		if of.replicas < 2 || len(pods) == 0 || o.Namespace != "" && of.GetNamespace() != o.Namespace || of.GetDeletionTimestamp() != nil {
			continue
		}
		w := &workload{owner: of.GetUID(), pods: pods, at: map[*corev1.Pod]string{}, keys: keysOf(pods[0])}
		w.name = of.GetNamespace() + "/" + of.kind + "/" + of.GetName()
		if of.deployment != nil {
			w.name = of.GetNamespace() + "/" + strings.ToLower(of.deployment.Kind) + "/" + of.deployment.Name
		}
		asks := cmp.Or(of.GetAnnotations()[servicespec.RebalanceAnnotation], namespaces[of.GetNamespace()])
		if o.OptedIn && asks != servicespec.RebalanceOn || slices.Contains(o.Except, w.name) {
			continue
		}
		w.waits = incomplete(pods, of.replicas)
		if of.deployment != nil && sets[of.deployment.UID] > 1 {
			w.waits = "a rollout is under way"
		}
		w.stays = fixed(pods, asks)
		for _, p := range pods {
			w.at[p] = p.Spec.NodeName
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *workload) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.owner, b.owner)) })
	return all
}

// incomplete says what a workload lacks before one of its replicas may go; "": nothing.
func incomplete(pods []*corev1.Pod, replicas int32) string {
	ready := 0
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			return fmt.Sprintf("pod %s is ending", p.Name)
		}
		if controller.PodReady(p) && p.Spec.NodeName != "" {
			ready++
		}
	}
	if ready != int(replicas) || len(pods) != ready {
		return fmt.Sprintf("%d of %d replicas are ready", ready, replicas)
	}
	return ""
}

// fixed says why a workload stays where it is; "": it may move.
func fixed(pods []*corev1.Pod, asks string) string {
	if asks == servicespec.RebalanceOff {
		return fmt.Sprintf("annotation %s is %q", servicespec.RebalanceAnnotation, asks)
	}
	if asks != "" && asks != servicespec.RebalanceOn {
		return fmt.Sprintf("annotation %s is %q: want %q or %q", servicespec.RebalanceAnnotation, asks, servicespec.RebalanceOn, servicespec.RebalanceOff)
	}
	for i := range pods[0].Spec.Volumes {
		switch v := &pods[0].Spec.Volumes[i]; {
		case v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumMemory:
			return fmt.Sprintf("its pods have data of their own, in the emptyDir %s, which a move would delete", v.Name)
		case v.HostPath != nil:
			return fmt.Sprintf("its pods use files of their nodes, by the hostPath %s", v.Name)
		}
	}
	return ""
}

// keysOf returns the labels by which a pod is spread: those of its constraints, or zone and host as by default.
func keysOf(pod *corev1.Pod) (keys []string) {
	for i := range pod.Spec.TopologySpreadConstraints {
		if key := pod.Spec.TopologySpreadConstraints[i].TopologyKey; !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		keys = []string{corev1.LabelTopologyZone, corev1.LabelHostname}
	}
	return keys
}

// where names a node's domain for people.
func (w *workload) where(node, key string) string {
	switch domain := w.b.domain(node, key); {
	case key == corev1.LabelHostname:
		return "on " + domain
	case key == corev1.LabelTopologyZone:
		return "in zone " + domain
	default:
		return fmt.Sprintf("where %s is %q", key, domain)
	}
}

// counts counts the replicas in each domain.
func (w *workload) counts(key string) map[string]int {
	counts := map[string]int{}
	for _, node := range w.at {
		counts[w.b.domain(node, key)]++
	}
	return counts
}

// nodesByCount lists the nodes with replicas, those with most first.
func (w *workload) nodesByCount(counts map[string]int) []string {
	nodes := make([]string, 0, len(counts))
	for name := range counts {
		nodes = append(nodes, name)
	}
	slices.SortFunc(nodes, func(a, b string) int { return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b)) })
	return nodes
}

// youngestOn is the replica on a node that has done least so far.
func (w *workload) youngestOn(node string) (youngest *corev1.Pod) {
	for _, p := range w.pods {
		if w.at[p] != node {
			continue
		}
		if youngest == nil || youngest.CreationTimestamp.Before(&p.CreationTimestamp) || youngest.CreationTimestamp.Equal(&p.CreationTimestamp) && p.Name > youngest.Name {
			youngest = p
		}
	}
	return youngest
}

package deployment

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
)

// scale applies a deployment's new size. In the middle of a rollout every set grows or shrinks in proportion: giving all to
// one of them would be a step of the rollout, and a larger one than the strategy allows.
func (l *look) scale() {
	if only := deploymentutil.FindActiveOrLatest(l.current, l.old); only != nil {
		if size(only) != l.replicas() {
			l.resize(only, l.replicas())
		}
		return
	}
	if deploymentutil.IsSaturated(l.d, l.current) {
		for _, set := range active(l.old) {
			l.resize(set, 0)
		}
		return
	}
	if deploymentutil.IsRollingUpdate(l.d) {
		l.scaleInProportion()
	}
}

func (l *look) scaleInProportion() {
	sets := active(l.all())
	room := int32(0)
	if l.replicas() > 0 {
		room = l.replicas() + deploymentutil.MaxSurge(*l.d)
	}
	add := room - deploymentutil.GetReplicaCountForReplicaSets(sets)
	// The largest first. Among equals newer ones grow first and older ones shrink first.
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		age := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if add > 0 {
			age = -age
		}
		return cmp.Or(-cmp.Compare(size(a), size(b)), age, cmp.Compare(a.Name, b.Name))
	})
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, set := range sets {
		sizes[i] = size(set)
		if add != 0 {
			share := deploymentutil.GetReplicaSetProportion(klog.Logger{}, set, *l.d, add, added)
			sizes[i] += share
			added += share
		}
	}
	for i, set := range sets {
		if i == 0 {
			sizes[i] = max(sizes[i]+add-added, 0)
		}
		l.resize(set, sizes[i])
	}
}

// collectUpdates adds the sets that are to be changed to the plan.
func (l *look) collectUpdates() {
	for _, set := range l.all() {
		given := l.given[set.UID]
		if given == nil || equality.Semantic.DeepEqual(given.Spec, set.Spec) && equality.Semantic.DeepEqual(given.Annotations, set.Annotations) {
			continue
		}
		l.plan.updates = append(l.plan.updates, update{set: set, before: size(given)})
	}
}

package deployment

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	kubecontroller "k8s.io/kubernetes/pkg/controller"
	deploymentutil "k8s.io/kubernetes/pkg/controller/deployment/util"
	labelsutil "k8s.io/kubernetes/pkg/util/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
)

// revisionHistory bounds the annotation that remembers a set's earlier revisions, in characters.
const revisionHistory = 2000

// plan is what is to be done about a deployment next. Its results queue the deployment again.
type plan struct {
	create  *appsv1.ReplicaSet
	updates []update
	remove  []*appsv1.ReplicaSet
	status  appsv1.DeploymentStatus
	// revision is the newest template's, empty if it is not known yet.
	revision string
	// after is when to look again though nothing happens; 0: never.
	after time.Duration
}

// update is a set as it is to be, and how many pods it was to have until now.
type update struct {
	set    *appsv1.ReplicaSet
	before int32
}

// look is the state that is decided about. Its sets are copies, whose size and annotations are changed to what they are to be.
type look struct {
	d       *appsv1.Deployment
	current *appsv1.ReplicaSet // of the deployment's template; nil: there is none yet
	old     []*appsv1.ReplicaSet
	// given are the sets as they are.
	given map[types.UID]*appsv1.ReplicaSet
	plan  *plan
}

// decide makes a plan. It may change d; sets are shared. podsOf returns the pods that a set still has.
func decide(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, podsOf func(types.UID) []*corev1.Pod) (*plan, error) {
	l := &look{d: d, given: map[types.UID]*appsv1.ReplicaSet{}, plan: &plan{}}
	var copies []*appsv1.ReplicaSet
	for _, set := range sets {
		l.given[set.UID] = set
		copies = append(copies, set.DeepCopy())
	}
	l.current = deploymentutil.FindNewReplicaSet(d, copies)
	_, l.old = deploymentutil.FindOldReplicaSets(d, copies)
	if d.DeletionTimestamp != nil {
		l.plan.status = l.status()
		return l.plan, nil
	}
	scaled := l.scaledFromOutside()
	l.describeCurrent()
	l.notePause()
	var err error
	rollout := false
	switch {
	case d.Spec.Paused:
		l.scale()
		l.cleanUp()
	case scaled:
		l.scale()
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		rollout = true
		err = l.recreate(podsOf)
	default:
		rollout = true
		err = l.roll()
	}
	if err != nil {
		return nil, err
	}
	l.collectUpdates()
	l.plan.status = l.status()
	if rollout {
		l.plan.after = l.judgeProgress()
	}
	return l.plan, nil
}

func size(set *appsv1.ReplicaSet) int32 { return *set.Spec.Replicas }

func (l *look) replicas() int32 { return *l.d.Spec.Replicas }

func (l *look) all() []*appsv1.ReplicaSet {
	if l.current == nil {
		return l.old
	}
	return append(slices.Clone(l.old), l.current)
}

// active are the sets that are to have pods.
func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(set *appsv1.ReplicaSet) bool { return size(set) == 0 })
}

// scaledFromOutside says whether the deployment's size differs from the one that its sets were last sized for.
func (l *look) scaledFromOutside() bool {
	for _, set := range active(l.all()) {
		if sizedFor, ok := deploymentutil.GetDesiredReplicasAnnotation(klog.Logger{}, set); ok && sizedFor != l.replicas() {
			return true
		}
	}
	return false
}

// newRevision is the number that the newest template has, or gets.
func (l *look) newRevision() string {
	return strconv.FormatInt(deploymentutil.MaxRevision(klog.Logger{}, l.old)+1, 10)
}

// describeCurrent hands the deployment's annotations and revision on to the set of its template.
func (l *look) describeCurrent() {
	if l.current == nil {
		return
	}
	deploymentutil.SetNewReplicaSetAnnotations(context.Background(), l.d, l.current, l.newRevision(), true, revisionHistory)
	l.current.Spec.MinReadySeconds = l.d.Spec.MinReadySeconds
	l.plan.revision = l.current.Annotations[deploymentutil.RevisionAnnotation]
	if deploymentutil.HasProgressDeadline(l.d) && deploymentutil.GetDeploymentCondition(l.d.Status, appsv1.DeploymentProgressing) == nil {
		setProgress(&l.d.Status, corev1.ConditionTrue, deploymentutil.FoundNewRSReason, "Found new replica set \""+l.current.Name+"\"")
	}
}

// notePause records in the status that the rollout is paused, or resumed: the time of a pause does not count for the deadline.
func (l *look) notePause() {
	if !deploymentutil.HasProgressDeadline(l.d) {
		return
	}
	progress := deploymentutil.GetDeploymentCondition(l.d.Status, appsv1.DeploymentProgressing)
	paused := progress != nil && progress.Reason == deploymentutil.PausedDeployReason
	switch {
	case progress != nil && progress.Reason == deploymentutil.TimedOutReason:
	case l.d.Spec.Paused && !paused:
		setProgress(&l.d.Status, corev1.ConditionUnknown, deploymentutil.PausedDeployReason, "Deployment is paused")
	case !l.d.Spec.Paused && paused:
		setProgress(&l.d.Status, corev1.ConditionUnknown, deploymentutil.ResumedDeployReason, "Deployment is resumed")
	}
}

// resize sets a set's size, and records for which size of the deployment that is.
func (l *look) resize(set *appsv1.ReplicaSet, replicas int32) {
	*set.Spec.Replicas = replicas
	deploymentutil.SetReplicasAnnotations(set, l.replicas(), l.replicas()+deploymentutil.MaxSurge(*l.d))
}

// makeCurrent plans the set of the template.
func (l *look) makeCurrent() error {
	template := *l.d.Spec.Template.DeepCopy()
	hash := kubecontroller.ComputeHash(&template, l.d.Status.CollisionCount)
	template.Labels = labelsutil.CloneAndAddLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	name := l.d.Name
	if longest := validation.DNS1123SubdomainMaxLength - len(hash) - 1; len(name) > longest {
		name = name[:longest]
	}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			// The same name for the same template, so that the set cannot be made twice.
			Name: name + "-" + hash, Namespace: l.d.Namespace, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(l.d, kinds.Deployments.GVK)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), MinReadySeconds: l.d.Spec.MinReadySeconds, Template: template,
			Selector: labelsutil.CloneSelectorAndAddLabel(l.d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash),
		},
	}
	replicas, err := deploymentutil.NewRSNewReplicas(l.d, append(slices.Clone(l.old), set), set)
	if err != nil {
		return err
	}
	*set.Spec.Replicas = replicas
	deploymentutil.SetNewReplicaSetAnnotations(context.Background(), l.d, set, l.newRevision(), false, revisionHistory)
	l.current, l.plan.create = set, set.DeepCopy()
	l.plan.revision = set.Annotations[deploymentutil.RevisionAnnotation]
	return nil
}

// roll replaces old pods by new ones, as many at a time as the strategy allows.
func (l *look) roll() error {
	if l.current == nil {
		return l.makeCurrent()
	}
	before := size(l.current)
	switch {
	case before > l.replicas():
		l.resize(l.current, l.replicas())
	case before < l.replicas():
		replicas, err := deploymentutil.NewRSNewReplicas(l.d, l.all(), l.current)
		if err != nil {
			return err
		}
		if replicas != before {
			l.resize(l.current, replicas)
		}
	}
	if size(l.current) == before && !l.shrinkOld() && deploymentutil.DeploymentComplete(l.d, &l.d.Status) {
		l.cleanUp()
	}
	return nil
}

// shrinkOld removes from the old sets the pods that are not needed for the minimum that has to be available: first the unavailable pods,
// which would hold up the rollout for good, then as many available ones as exceed the minimum.
func (l *look) shrinkOld() (shrunk bool) {
	old := active(l.old)
	slices.SortFunc(old, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	total := deploymentutil.GetReplicaCountForReplicaSets(l.all())
	minimum := deploymentutil.MinAvailable(l.d)
	// Pods of the new set that are not available yet do not count: a rollout whose pods never become available must not remove the old pods.
	spare := total - minimum - (size(l.current) - l.current.Status.AvailableReplicas)
	take := func(set *appsv1.ReplicaSet, n int32) int32 {
		if n = min(n, size(set)); n <= 0 {
			return 0
		}
		l.resize(set, size(set)-n)
		shrunk = true
		return n
	}
	if spare <= 0 {
		return false
	}
	for _, set := range old {
		spare -= take(set, min(spare, size(set)-set.Status.AvailableReplicas))
	}
	spare = deploymentutil.GetAvailableReplicaCountForReplicaSets(l.all()) - minimum
	for _, set := range old {
		spare -= take(set, spare)
	}
	return shrunk
}

// recreate ends all old pods before it makes the first new one.
func (l *look) recreate(podsOf func(types.UID) []*corev1.Pod) error {
	waiting := false
	for _, set := range l.old {
		if size(set) > 0 {
			l.resize(set, 0)
			waiting = true
		}
		waiting = waiting || set.Status.Replicas > 0 || slices.ContainsFunc(podsOf(set.UID), func(pod *corev1.Pod) bool { return !controller.PodTerminal(pod) })
	}
	switch {
	case waiting:
		return nil
	case l.current == nil:
		return l.makeCurrent()
	case size(l.current) != l.replicas():
		l.resize(l.current, l.replicas())
	case deploymentutil.DeploymentComplete(l.d, &l.d.Status):
		l.cleanUp()
	}
	return nil
}

// cleanUp removes the oldest of the empty sets that are kept for a rollback, where there are more than the history limit.
func (l *look) cleanUp() {
	if !deploymentutil.HasRevisionHistoryLimit(l.d) {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(l.old), func(set *appsv1.ReplicaSet) bool { return set.DeletionTimestamp != nil })
	surplus := len(kept) - int(*l.d.Spec.RevisionHistoryLimit)
	slices.SortFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	for _, set := range kept[:max(surplus, 0)] {
		if size(set) == 0 && set.Status.Replicas == 0 && set.Generation <= set.Status.ObservedGeneration {
			l.plan.remove = append(l.plan.remove, l.given[set.UID])
		}
	}
}

// revisionOf is 0 for a set that has none, or one that is no number.
func revisionOf(set *appsv1.ReplicaSet) int64 {
	revision, err := deploymentutil.Revision(set)
	if err != nil {
		return 0
	}
	return revision
}

// Package eviction removes pods as the eviction API does: only as far as their disruption budgets allow. It decides nothing of its own: budgets'
// status is kept by the disruption loop.
package eviction

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// maxDisruptedPods is how many evictions of a budget may wait until the disruption loop has seen them.
	maxDisruptedPods = 2000
	// evictionRetry is after how many seconds a client should try again when a budget's status is not up to date.
	evictionRetry = 10
	// evictionAttempts bounds how often an eviction begins again because the pod changed meanwhile.
	evictionAttempts = 20
)

// errPodChanged says that the pod changed after it was found that it may be evicted.
var errPodChanged = errors.New("pod changed")

// Evict deletes a pod unless its disruption budget forbids that. The pod gets the condition DisruptionTarget, and the budget's status counts
// the pod as disrupted in one write that is guarded against others. Errors are those of Kubernetes.
func Evict(ctx context.Context, r *resource.Registry, namespace, name string, o *metav1.DeleteOptions) error {
	// What the user may not delete is refused before anything is written on behalf of the API server.
	trial := o.DeepCopy()
	trial.DryRun = []string{metav1.DryRunAll}
	if _, _, err := r.Delete(ctx, kinds.Pods, namespace, name, trial); err != nil {
		return err
	}
	for range evictionAttempts {
		err := tryEvict(ctx, r, namespace, name, o)
		if !errors.Is(err, errPodChanged) {
			return err
		}
	}
	return kinds.Pods.Modified(name)
}

func tryEvict(ctx context.Context, r *resource.Registry, namespace, name string, o *metav1.DeleteOptions) error {
	obj, err := r.Get(ctx, kinds.Pods, namespace, name, "")
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if ended {
		return disrupt(ctx, r, pod, o, false)
	}
	if pod.Status.Phase == corev1.PodPending {
		return disrupt(ctx, r, pod, o, true) // no budget counts it; it must not become ready meanwhile
	}
	budgets, err := Budgets(ctx, r, pod)
	switch {
	case err != nil:
		return err
	case len(budgets) > 1:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonInternalError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	case len(budgets) == 0:
		return disrupt(ctx, r, pod, o, false)
	}
	budget := budgets[0]
	if !podutil.IsPodReady(pod) {
		always := ptr.Deref(budget.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) == policyv1.AlwaysAllow
		if always || budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0 {
			if err := disrupt(ctx, r, pod, o, true); !errors.Is(err, errPodChanged) {
				return err
			}
			return notProcessed(budget.Name) // it may be ready now
		}
	}
	if err := spend(ctx, r, budget, name, len(o.DryRun) > 0); err != nil {
		return err
	}
	return disrupt(ctx, r, pod, o, false)
}

// Budgets returns the disruption budgets that select a pod, as they are stored now.
func Budgets(ctx context.Context, r *resource.Registry, pod *corev1.Pod) (of []*policyv1.PodDisruptionBudget, err error) {
	if err := r.WaitForStore(ctx, kinds.PodDisruptionBudgets); err != nil {
		return nil, err
	}
	for _, budget := range resource.ListAs[*policyv1.PodDisruptionBudget](r, kinds.PodDisruptionBudgets, pod.Namespace, nil) {
		// One whose selector cannot be read selects nothing.
		if selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			of = append(of, budget)
		}
	}
	return of, nil
}

// spend takes one disruption from a budget, in the pod's name, or says why there is none.
func spend(ctx context.Context, r *resource.Registry, budget *policyv1.PodDisruptionBudget, pod string, dryRun bool) error {
	ctx = identity.With(ctx, identity.APIServer)
	_, err := r.Modify(ctx, kinds.PodDisruptionBudgets, "status", budget.Namespace, budget.Name, resource.UpdateOptions{DryRun: dryRun}, func(current resource.Object) (resource.Object, error) {
		now := current.(*policyv1.PodDisruptionBudget)
		if err := refusal(now); err != nil {
			return nil, err
		}
		now = now.DeepCopy()
		if now.Status.DisruptionsAllowed--; now.Status.DisruptionsAllowed == 0 {
			pdbhelper.UpdateDisruptionAllowedCondition(now)
		}
		if now.Status.DisruptedPods == nil {
			now.Status.DisruptedPods = map[string]metav1.Time{}
		}
		now.Status.DisruptedPods[pod] = metav1.Now()
		return now, nil
	})
	if apierrors.IsConflict(err) {
		return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", budget.Name), evictionRetry)
	}
	return err
}

// refusal says why a budget allows no disruption; nil: it does.
func refusal(budget *policyv1.PodDisruptionBudget) error {
	status, name := &budget.Status, budget.Name
	forbidden := func(why, cause string) error {
		err := apierrors.NewForbidden(schema.GroupResource{Group: "policy", Resource: "poddisruptionbudget"}, name, errors.New(why))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", name, cause),
		})
		return err
	}
	switch {
	case status.ObservedGeneration < budget.Generation:
		return notProcessed(name)
	case status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > maxDisruptedPods:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller", "too many pending evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed > 0:
		return nil
	}
	condition := apimeta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	var cause string
	switch {
	case explained && condition.Reason == policyv1.SyncFailedReason:
		cause = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", name, condition.Message)
	case status.CurrentHealthy <= status.DesiredHealthy:
		cause = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", name, status.DesiredHealthy, status.CurrentHealthy)
	case explained:
		cause = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", name, condition.Reason, condition.Message)
	default:
		cause = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", name)
	}
	return tooManyRequests(0, cause)
}

// notProcessed says that the status of a budget is of an earlier state.
func notProcessed(name string) error {
	return tooManyRequests(evictionRetry, fmt.Sprintf("The disruption budget %s is still being processed by the server.", name))
}

func tooManyRequests(seconds int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// disrupt says in a pod that it is evicted and deletes it; unchanged: only in the state that the caller has seen.
func disrupt(ctx context.Context, r *resource.Registry, pod *corev1.Pod, o *metav1.DeleteOptions, unchanged bool) error {
	o = o.DeepCopy()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	byCaller := o.Preconditions.ResourceVersion != nil
	if unchanged && !byCaller {
		o.Preconditions.ResourceVersion = ptr.To(pod.ResourceVersion)
	}
	if o.Preconditions.UID == nil {
		o.Preconditions.UID = ptr.To(pod.UID)
	}
	changed := func(err error) error {
		if apierrors.IsConflict(err) && unchanged && !byCaller {
			return errPodChanged
		}
		return err
	}
	if len(o.DryRun) == 0 {
		marked, err := r.Modify(identity.With(ctx, identity.APIServer), kinds.Pods, "status", pod.Namespace, pod.Name, resource.UpdateOptions{Preconditions: o.Preconditions}, func(current resource.Object) (resource.Object, error) {
			p := current.(*corev1.Pod).DeepCopy()
			SetDisruptionTarget(p, "EvictionByEvictionAPI", "Eviction API: evicting")
			return p, nil
		})
		if err != nil {
			return changed(err)
		}
		if o.Preconditions.ResourceVersion != nil {
			o.Preconditions.ResourceVersion = ptr.To(marked.GetResourceVersion())
		}
	}
	_, _, err := r.Delete(ctx, kinds.Pods, pod.Namespace, pod.Name, o)
	return changed(err)
}

// SetDisruptionTarget says in a pod's conditions that it is about to be removed, and why.
func SetDisruptionTarget(pod *corev1.Pod, reason, message string) {
	podutil.UpdatePodCondition(&pod.Status, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, corev1.DisruptionTarget),
	})
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			c.LastTransitionTime = metav1.NewTime(c.LastTransitionTime.Truncate(time.Second))
		}
	}
}

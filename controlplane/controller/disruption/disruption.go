// Package disruption keeps the status of PodDisruptionBudgets: how many of the selected pods are healthy, how many must be, and so how many more may
// be evicted. It takes back the mark of pods that were to be evicted and were not. It evicts nothing.
package disruption

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "controllermanager"

const (
	workers = 4
	// deletionTimeout is how long a pod whose eviction was allowed counts as disrupted without being deleted.
	deletionTimeout = 2 * time.Minute
	// staleAfter is how long the condition DisruptionTarget stays true in a pod that is not deleted.
	staleAfter = 2 * time.Minute
)

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	recorder *event.Recorder
	clock    clock.WithTicker
	budgets  *controller.Queue[controller.Key]
	marked   *controller.Queue[controller.Key] // pods with the condition DisruptionTarget

	mu        sync.Mutex
	selectors map[string]map[string]labels.Selector // of budgets, by namespace and name
}

// New makes the loop.
func New(registry *resource.Registry, recorder *event.Recorder, clock clock.WithTicker) *Controller {
	return &Controller{
		registry: registry, recorder: recorder, clock: clock,
		budgets:   controller.NewQueueOn[controller.Key]("disruption", clock),
		marked:    controller.NewQueueOn[controller.Key]("stale_pod_disruption", clock),
		selectors: map[string]map[string]labels.Selector{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.PodDisruptionBudgets, c.budgetChanged)
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, c.podChanged)
	wg.Go(func() { c.budgets.Run(ctx, workers, c.syncBudget) })
	wg.Go(func() { c.marked.Run(ctx, 1, c.syncMarked) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) budgetChanged(old, cur *policyv1.PodDisruptionBudget, _ int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cur == nil {
		of := c.selectors[old.Namespace]
		if delete(of, old.Name); len(of) == 0 {
			delete(c.selectors, old.Namespace)
		}
		return
	}
	if c.selectors[cur.Namespace] == nil {
		c.selectors[cur.Namespace] = map[string]labels.Selector{}
	}
	if old == nil || old.Generation != cur.Generation {
		selector, err := metav1.LabelSelectorAsSelector(cur.Spec.Selector)
		if err != nil {
			selector = labels.Nothing() // the sync says so in the status
		}
		c.selectors[cur.Namespace][cur.Name] = selector
	}
	c.budgets.Add(controller.KeyOf(cur))
}

// podChanged has the budgets synced that select the pod, or did before, if anything changed that they count.
func (c *Controller) podChanged(old, cur *corev1.Pod, _ int64) {
	if cur != nil {
		if wait, is := c.stale(cur); is {
			c.marked.AddAfter(controller.KeyOf(cur), wait)
		}
	}
	if old != nil && cur != nil && old.UID == cur.UID && labels.Equals(old.Labels, cur.Labels) && podutil.IsPodReady(old) == podutil.IsPodReady(cur) &&
		(old.DeletionTimestamp == nil) == (cur.DeletionTimestamp == nil) && old.Status.Phase == cur.Status.Phase &&
		apiequality.Semantic.DeepEqual(metav1.GetControllerOf(old), metav1.GetControllerOf(cur)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pod := range []*corev1.Pod{old, cur} {
		if pod == nil {
			continue
		}
		for name, selector := range c.selectors[pod.Namespace] {
			if selector.Matches(labels.Set(pod.Labels)) {
				c.budgets.Add(controller.Key{Namespace: pod.Namespace, Name: name})
			}
		}
	}
}

// syncBudget brings the status of one budget up to date. If that fails the budget allows no disruption.
func (c *Controller) syncBudget(ctx context.Context, key controller.Key) error {
	budget, err := resource.Get[*policyv1.PodDisruptionBudget](ctx, c.registry, kinds.PodDisruptionBudgets, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	status, recheck, failed := c.compute(budget)
	if failed != nil {
		return c.write(ctx, budget, func(now *policyv1.PodDisruptionBudget) {
			now.Status.DisruptionsAllowed = 0
			apimeta.SetStatusCondition(&now.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: failed.Error(),
				ObservedGeneration: now.Status.ObservedGeneration,
			})
		})
	}
	err = c.write(ctx, budget, func(now *policyv1.PodDisruptionBudget) {
		status.Conditions = now.Status.Conditions
		now.Status = *status
		pdbhelper.UpdateDisruptionAllowedCondition(now)
	})
	if err == nil && recheck > 0 {
		c.budgets.AddAfter(key, recheck)
	}
	return err
}

// write changes the status of the budget as it was read: an eviction that was allowed meanwhile is a conflict, and counted by the next sync.
func (c *Controller) write(ctx context.Context, budget *policyv1.PodDisruptionBudget, change func(*policyv1.PodDisruptionBudget)) error {
	next := budget.DeepCopy()
	change(next)
	if apiequality.Semantic.DeepEqual(next.Status, budget.Status) {
		return nil
	}
	_, err := c.registry.Update(ctx, kinds.PodDisruptionBudgets, "status", next, resource.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// compute returns the status of a budget, and after how long it changes by itself; 0: not.
func (c *Controller) compute(budget *policyv1.PodDisruptionBudget) (*policyv1.PodDisruptionBudgetStatus, time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		c.recorder.Eventf(budget, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return nil, 0, err
	}
	pods := resource.ListAs[*corev1.Pod](c.registry, kinds.Pods, budget.Namespace, selector)
	if len(pods) == 0 {
		c.recorder.Eventf(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, unmanaged, err := c.expected(budget, pods)
	if err != nil {
		c.recorder.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return nil, 0, err
	}
	if unmanaged {
		c.recorder.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" "+
			"field of the PDB to an integer value.", budget.Spec.Selector)
	}
	disrupted, recheck := c.disrupted(budget, pods)
	healthy := int32(0)
	for _, pod := range pods {
		if _, is := disrupted[pod.Name]; !is && pod.DeletionTimestamp == nil && podutil.IsPodReady(pod) {
			healthy++
		}
	}
	allowed := max(healthy-desired, 0)
	if expected <= 0 {
		allowed = 0 // its first pods are safe until they are counted
	}
	return &policyv1.PodDisruptionBudgetStatus{
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected, DisruptionsAllowed: allowed,
		DisruptedPods: disrupted, ObservedGeneration: budget.Generation,
	}, recheck, nil
}

// disrupted returns the pods whose eviction was allowed and that are not being deleted yet, and when the first of them counts as healthy again.
func (c *Controller) disrupted(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (of map[string]metav1.Time, recheck time.Duration) {
	for _, pod := range pods {
		since, is := budget.Status.DisruptedPods[pod.Name]
		if !is || pod.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(deletionTimeout).Sub(c.clock.Now())
		if left <= 0 {
			c.recorder.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
			continue
		}
		if of == nil {
			of = map[string]metav1.Time{}
		}
		of[pod.Name] = since
		if recheck == 0 || left < recheck {
			recheck = left
		}
	}
	return of, recheck
}

// stale says whether a pod has the condition DisruptionTarget and is not being deleted, and how long it may have it still.
func (c *Controller) stale(pod *corev1.Pod) (wait time.Duration, is bool) {
	target := controller.PodCondition(pod, corev1.DisruptionTarget)
	if pod.DeletionTimestamp != nil || controller.PodTerminal(pod) || target == nil || target.Status != corev1.ConditionTrue ||
		target.Reason == corev1.PodReasonTerminationByKubelet {
		return 0, false
	}
	return max(staleAfter-c.clock.Since(target.LastTransitionTime.Time), 0), true
}

func (c *Controller) syncMarked(ctx context.Context, key controller.Key) error {
	pod, err := resource.Get[*corev1.Pod](ctx, c.registry, kinds.Pods, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if wait, is := c.stale(pod); !is || wait > 0 {
		if is {
			c.marked.AddAfter(key, wait)
		}
		return nil
	}
	pod = pod.DeepCopy()
	podutil.UpdatePodCondition(&pod.Status, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, corev1.DisruptionTarget),
	})
	if _, err := c.registry.Update(ctx, kinds.Pods, "status", pod, resource.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take back the condition DisruptionTarget: %w", err)
	}
	return nil
}

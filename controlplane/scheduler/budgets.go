package scheduler

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// budget is a disruption budget as preemption sees it.
type budget struct {
	selector labels.Selector
	status   *policyv1.PodDisruptionBudgetStatus
}

// setBudget replaces a disruption budget; nil if it is gone.
func (c *cluster) setBudget(namespace, name string, now *policyv1.PodDisruptionBudget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.budgets[namespace]
	if now == nil {
		if delete(of, name); len(of) == 0 {
			delete(c.budgets, namespace)
		}
		return
	}
	if of == nil {
		of = map[string]budget{}
		c.budgets[namespace] = of
	}
	selector, err := metav1.LabelSelectorAsSelector(now.Spec.Selector)
	if err != nil {
		selector = labels.Nothing()
	}
	of[name] = budget{selector, &now.Status}
}

// keptByBudgets says which of some pods, in this order, a disruption budget would keep if they were all evicted.
func (c *cluster) keptByBudgets(pods []*placement) []bool {
	kept := make([]bool, len(pods))
	if len(c.budgets) == 0 {
		return kept
	}
	spent := map[*policyv1.PodDisruptionBudgetStatus]int32{}
	for i, p := range pods {
		pod := p.request.pod
		for _, b := range c.budgets[pod.Namespace] {
			if _, counted := b.status.DisruptedPods[pod.Name]; counted || b.selector.Empty() || !b.selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			spent[b.status]++
			if spent[b.status] > b.status.DisruptionsAllowed {
				kept[i] = true
				break
			}
		}
	}
	return kept
}

package scheduler

import (
	"context"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
)

// owners are the selectors of services and controllers, by which pods without topology spread constraints are spread.
type owners struct {
	services       map[string]map[string]labels.Selector // by namespace and name
	controllers    map[string]labels.Selector            // by UID
	generations    map[string]int64                      // of each namespace: changes with the above
	lastGeneration int64
}

func newOwners() owners {
	return owners{services: map[string]map[string]labels.Selector{}, controllers: map[string]labels.Selector{}, generations: map[string]int64{}}
}

// setService replaces the selector of a service; nil if it is gone or has none.
func (c *cluster) setService(namespace, name string, selector labels.Selector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.services[namespace]
	if had := of[name]; had == nil && selector == nil || had != nil && selector != nil && had.String() == selector.String() {
		return
	}
	c.lastGeneration++
	c.generations[namespace] = c.lastGeneration
	if selector == nil {
		if delete(of, name); len(of) == 0 {
			delete(c.services, namespace)
		}
		return
	}
	if of == nil {
		of = map[string]labels.Selector{}
		c.services[namespace] = of
	}
	of[name] = selector
}

// setController replaces the selector of a controller; nil if it is gone.
func (c *cluster) setController(namespace, uid string, selector labels.Selector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	had := c.controllers[uid]
	if had == nil && selector == nil || had != nil && selector != nil && had.String() == selector.String() {
		return
	}
	c.lastGeneration++
	c.generations[namespace] = c.lastGeneration
	if selector == nil {
		delete(c.controllers, uid)
	} else {
		c.controllers[uid] = selector
	}
}

// forgetOwners drops what is known of a namespace that is gone.
func (c *cluster) forgetOwners(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.generations, namespace)
	delete(c.services, namespace)
}

// defaultSelector selects the pods with which a pod is spread by default: those that all its services and its controller select, or, where it has
// neither, those with exactly its labels. nil: none.
func (c *cluster) defaultSelector(req *request) *matcher {
	cl := c.class(req)
	if generation := c.generations[cl.namespace]; cl.defaults == nil || cl.generation != generation {
		cl.defaults, cl.generation = map[string]*matcher{}, generation
	}
	if m, known := cl.defaults[req.owner]; known {
		return m
	}
	var all labels.Selector
	add := func(s labels.Selector) {
		if all == nil {
			all = labels.NewSelector()
		}
		if of, selectable := s.Requirements(); selectable {
			all = all.Add(of...)
		}
	}
	for _, s := range c.services[cl.namespace] {
		if s.Matches(cl.labels) {
			add(s)
		}
	}
	if s := c.controllers[req.owner]; s != nil {
		add(s)
	}
	if all == nil && len(cl.labels) > 0 {
		all = labels.SelectorFromSet(cl.labels)
	}
	var m *matcher
	if all != nil && !all.Empty() {
		m = newMatcher([]string{cl.namespace}, nil, all)
	}
	cl.defaults[req.owner] = m
	return m
}

// serviceSelector is what a service selects; nil: it selects nothing.
func serviceSelector(s *corev1.Service) labels.Selector {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	return labels.SelectorFromSet(s.Spec.Selector)
}

// observeOwners follows namespaces, services, controllers and disruption budgets.
func (s *Scheduler) observeOwners(ctx context.Context, wg *sync.WaitGroup) {
	controller.Observe(ctx, wg, s.registry, kinds.Namespaces, func(old, cur *corev1.Namespace, _ int64) {
		if cur == nil {
			s.cluster.setNamespace(old.Name, nil)
			s.cluster.forgetOwners(old.Name)
			return
		}
		s.cluster.setNamespace(cur.Name, labels.Merge(labels.Set{}, cur.Labels))
	})
	controller.Observe(ctx, wg, s.registry, kinds.PodDisruptionBudgets, func(old, cur *policyv1.PodDisruptionBudget, _ int64) {
		if cur == nil {
			s.cluster.setBudget(old.Namespace, old.Name, nil)
			return
		}
		s.cluster.setBudget(cur.Namespace, cur.Name, cur)
	})
	controller.Observe(ctx, wg, s.registry, kinds.Services, func(old, cur *corev1.Service, _ int64) {
		if cur == nil {
			s.cluster.setService(old.Namespace, old.Name, nil)
			return
		}
		s.cluster.setService(cur.Namespace, cur.Name, serviceSelector(cur))
	})
	controller.Observe(ctx, wg, s.registry, kinds.ReplicationControllers, func(old, cur *corev1.ReplicationController, _ int64) {
		if cur == nil {
			s.cluster.setController(old.Namespace, string(old.UID), nil)
			return
		}
		s.cluster.setController(cur.Namespace, string(cur.UID), labels.SelectorFromSet(cur.Spec.Selector))
	})
	controller.Observe(ctx, wg, s.registry, kinds.ReplicaSets, func(old, cur *appsv1.ReplicaSet, _ int64) {
		if cur == nil {
			s.cluster.setController(old.Namespace, string(old.UID), nil)
			return
		}
		s.cluster.setController(cur.Namespace, string(cur.UID), selectorOf(cur.Spec.Selector))
	})
}

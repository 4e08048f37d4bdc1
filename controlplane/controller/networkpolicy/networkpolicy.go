// Package networkpolicy reports that network policies are accepted and not enforced, where users see it: in a condition of every namespace
// that has a policy, as long as it has one, and once in an event about each policy. A policy has no status of its own
// (networking.k8s.io/v1), and it is the namespace's pods that are not protected. It enforces nothing.
package networkpolicy

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/admission"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// Component is the source of this loop's events.
const Component = "networkpolicy-controller"

// Names of the condition and of the events.
const (
	// Enforced is False in namespaces that have network policies.
	Enforced corev1.NamespaceConditionType = "skep.io/NetworkPoliciesEnforced"
	Reason   string                        = "NetworkPolicyNotEnforced"
)

const workers = 2

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	recorder *event.Recorder
	queue    *controller.Queue[string]

	mu       sync.Mutex
	policies map[string]map[string]bool // by namespace, by name
	began    bool                       // the existing policies have been read
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, recorder *event.Recorder) *Controller {
	return &Controller{
		registry: registry, recorder: recorder, queue: controller.NewQueue[string]("network policies"),
		policies: map[string]map[string]bool{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.NetworkPolicies, c.policyChanged)
	c.mu.Lock()
	c.began = true
	c.mu.Unlock()
	controller.Observe(ctx, &wg, c.registry, kinds.Namespaces, c.namespaceChanged)
	wg.Go(func() { c.queue.Run(ctx, workers, c.sync) })
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) policyChanged(old, cur *networkingv1.NetworkPolicy, _ int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cur == nil {
		delete(c.policies[old.Namespace], old.Name)
		if len(c.policies[old.Namespace]) == 0 {
			delete(c.policies, old.Namespace)
		}
		c.queue.Add(old.Namespace)
		return
	}
	if c.policies[cur.Namespace] == nil {
		c.policies[cur.Namespace] = map[string]bool{}
	}
	c.policies[cur.Namespace][cur.Name] = true
	c.queue.Add(cur.Namespace)
	if old == nil && c.began {
		c.recorder.Eventf(cur, corev1.EventTypeWarning, Reason, "%s", admission.NetworkPolicyWarning)
	}
}

// namespaceChanged corrects conditions that an earlier leader or other writers have set.
func (c *Controller) namespaceChanged(_, cur *corev1.Namespace, _ int64) {
	if cur != nil && says(cur) != c.has(cur.Name) {
		c.queue.Add(cur.Name)
	}
}

func (c *Controller) has(namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.policies[namespace]) > 0
}

func says(n *corev1.Namespace) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(have corev1.NamespaceCondition) bool {
		return have.Type == Enforced && have.Status == corev1.ConditionFalse && have.Message == admission.NetworkPolicyWarning
	})
}

// sync brings a namespace's condition up to date.
func (c *Controller) sync(ctx context.Context, namespace string) error {
	_, err := c.registry.Modify(ctx, kinds.Namespaces, "status", "", namespace, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Namespace)
		want := c.has(namespace)
		if says(n) == want {
			return current, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(have corev1.NamespaceCondition) bool { return have.Type == Enforced })
		if want {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NamespaceCondition{
				Type: Enforced, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(), Reason: Reason, Message: admission.NetworkPolicyWarning,
			})
		}
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

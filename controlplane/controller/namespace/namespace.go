// Package namespace empties and finalizes namespaces that are being deleted. It
// owns the finalizer "kubernetes" and the deletion conditions. It never deletes
// a namespace that nobody asked to delete.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	workers = 4
	// recheck is how often a namespace is checked while it has content whose deletion takes
	// time; a deleted pod queues it earlier.
	recheck = time.Second
)

// Controller is the loop.
type Controller struct {
	registry *resource.Registry
	queue    *controller.Queue[string]
}

// New makes the loop. It runs once.
func New(registry *resource.Registry) *Controller {
	return &Controller{registry: registry, queue: controller.NewQueue[string]("namespace")}
}

// kinds are the namespaced kinds, pods last, when nothing remains that would replace them.
func (c *Controller) kinds() []*resource.Kind {
	others := slices.DeleteFunc(slices.Clone(c.registry.Kinds()), func(k *resource.Kind) bool { return !k.Namespaced || k == kinds.Pods })
	return append(others, kinds.Pods)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	controller.Observe(ctx, &wg, c.registry, kinds.Namespaces, func(_, cur *corev1.Namespace, _ int64) {
		if cur != nil && cur.DeletionTimestamp != nil {
			c.queue.Add(cur.Name)
		}
	})
	controller.Observe(ctx, &wg, c.registry, kinds.Pods, func(old, cur *corev1.Pod, _ int64) {
		if cur == nil && c.terminating(ctx, old.Namespace) {
			c.queue.Add(old.Namespace)
		}
	})
	c.queue.Run(ctx, workers, c.sync)
	wg.Wait()
	return ctx.Err()
}

func (c *Controller) terminating(ctx context.Context, name string) bool {
	ns, err := resource.Get[*corev1.Namespace](ctx, c.registry, kinds.Namespaces, "", name)
	return err == nil && ns.DeletionTimestamp != nil
}

func (c *Controller) sync(ctx context.Context, name string) error {
	// From the store: the cache of namespaces may be behind those of their content.
	obj, err := c.registry.Get(ctx, kinds.Namespaces, "", name, "")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ns := obj.(*corev1.Namespace)
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	rest, err := c.empty(ctx, name)
	if statusErr := c.setConditions(ctx, ns, rest, err); statusErr != nil && !apierrors.IsNotFound(statusErr) {
		err = errors.Join(err, statusErr)
	}
	if err != nil {
		return err
	}
	if rest.objects > 0 {
		c.queue.AddAfter(name, recheck)
		return nil
	}
	return c.finalize(ctx, ns)
}

// remains is what is still in a namespace after its content was deleted.
type remains struct {
	objects    int
	byKind     map[string]int
	finalizers map[string]int
}

// empty deletes everything and reports what is still there.
func (c *Controller) empty(ctx context.Context, name string) (remains, error) {
	rest := remains{byKind: map[string]int{}, finalizers: map[string]int{}}
	var failures []error
	for _, k := range c.kinds() {
		list, err := c.registry.List(ctx, k, name, resource.ListOptions{})
		if err != nil {
			failures = append(failures, err)
			continue
		}
		for _, o := range list.Objects {
			obj := o.Value()
			removed := false
			if obj.GetDeletionTimestamp() == nil || k == kinds.Pods {
				removed, err = c.delete(ctx, k, obj)
				if err != nil {
					failures = append(failures, err)
				}
			}
			if !removed {
				rest.objects++
				rest.byKind[k.GroupResource().String()]++
				for _, f := range obj.GetFinalizers() {
					rest.finalizers[f]++
				}
			}
		}
	}
	return rest, errors.Join(failures...)
}

func (c *Controller) delete(ctx context.Context, k *resource.Kind, obj resource.Object) (removed bool, err error) {
	if obj.GetDeletionTimestamp() != nil {
		return false, nil
	}
	_, removed, err = c.registry.Delete(ctx, k, obj.GetNamespace(), obj.GetName(), &metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		Preconditions:     &metav1.Preconditions{UID: ptr.To(obj.GetUID())},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return true, nil
	}
	return removed, err
}

// finalize removes the finalizer, after which the namespace is deleted.
func (c *Controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	_, err := c.registry.Modify(ctx, kinds.Namespaces, "finalize", "", ns.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Namespace)
		if n.UID != ns.UID {
			return n, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		n.Spec.Finalizers = slices.DeleteFunc(n.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		return n, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// setConditions says why a namespace is still there.
func (c *Controller) setConditions(ctx context.Context, ns *corev1.Namespace, rest remains, failure error) error {
	if rest.objects == 0 && failure == nil {
		return nil
	}
	_, err := c.registry.Modify(ctx, kinds.Namespaces, "status", "", ns.Name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		n := current.(*corev1.Namespace)
		if n.UID != ns.UID {
			return n, nil
		}
		n = n.DeepCopy()
		n.ResourceVersion = ""
		changed := false
		set := func(kind corev1.NamespaceConditionType, is bool, reason, otherwise, message, fine string) {
			changed = setCondition(n, kind, is, reason, otherwise, message, fine) || changed
		}
		set(corev1.NamespaceDeletionContentFailure, failure != nil, "ContentDeletionFailed", "ContentDeleted",
			fmt.Sprintf("Failed to delete all resource types, %v", failure), "All content successfully deleted, may be waiting on finalization")
		set(corev1.NamespaceContentRemaining, rest.objects > 0, "SomeResourcesRemain", "ContentRemoved",
			"Some resources are remaining: "+counts(rest.byKind, "%s has %d resource instances"), "All content successfully removed")
		set(corev1.NamespaceFinalizersRemaining, len(rest.finalizers) > 0, "SomeFinalizersRemain", "ContentHasNoFinalizers",
			"Some content in the namespace has finalizers remaining: "+counts(rest.finalizers, "%s in %d resource instances"), "All content-preserving finalizers finished")
		if !changed {
			return current, nil
		}
		return n, nil
	})
	return err
}

func setCondition(n *corev1.Namespace, kind corev1.NamespaceConditionType, is bool, reason, otherwise, message, fine string) bool {
	want := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: otherwise, Message: fine}
	if is {
		want.Status, want.Reason, want.Message = corev1.ConditionTrue, reason, message
	}
	want.LastTransitionTime = metav1.Now()
	for i := range n.Status.Conditions {
		have := &n.Status.Conditions[i]
		if have.Type != kind {
			continue
		}
		if have.Status == want.Status && have.Message == want.Message {
			return false
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
		return true
	}
	n.Status.Conditions = append(n.Status.Conditions, want)
	return true
}

func counts(m map[string]int, format string) string {
	parts := make([]string, 0, len(m))
	for name, n := range m {
		parts = append(parts, fmt.Sprintf(format, name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

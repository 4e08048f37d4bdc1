package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Bind puts pods on nodes, as many as a transaction takes at a time. It returns
// an error for each binding, nil for those that were made; one that cannot be
// made does not keep the others.
func (r *Registry) Bind(ctx context.Context, bindings []Binding) []error {
	errs := make([]error, len(bindings))
	if err := r.Cache(Pods).WaitForSync(ctx); err != nil {
		for i := range errs {
			errs[i] = storeError(ctx, err)
		}
		return errs
	}
	for from := 0; from < len(bindings); from += storage.MaxOps {
		to := min(from+storage.MaxOps, len(bindings))
		r.bindBatch(ctx, bindings[from:to], errs[from:to])
	}
	return errs
}

// pending is a binding that is still to be made.
type pending struct {
	at      int // index of the binding
	current *watchcache.Object
	value   []byte
}

// bindBatch makes up to storage.MaxOps bindings. Those whose pods changed since
// they were read are prepared again from the store, the others go on as they are.
func (r *Registry) bindBatch(ctx context.Context, bindings []Binding, errs []error) {
	var todo []pending
	seen := make(map[string]bool, len(bindings))
	for i, b := range bindings {
		key := Pods.Key(b.Namespace, b.Name)
		if seen[key] {
			errs[i] = b.conflict(fmt.Errorf("pod %s is bound twice in one request", b.Name))
			continue
		}
		seen[key] = true
		current, _ := r.Cache(Pods).Get(key)
		if p, err := r.prepareBinding(ctx, b, key, current); err != nil {
			errs[i] = err
		} else {
			p.at = i
			todo = append(todo, p)
		}
	}
	for attempt := 1; len(todo) > 0; attempt++ {
		changed, err := r.commitBindings(ctx, todo)
		if attempt == maxAttempts && err == nil && len(changed) > 0 {
			err = Pods.conflict("", errModified)
		}
		if apierrors.IsRequestEntityTooLargeError(err) && len(todo) > 1 {
			half := len(bindings) / 2
			r.bindBatch(ctx, bindings[:half], errs[:half])
			r.bindBatch(ctx, bindings[half:], errs[half:])
			return
		}
		if err != nil {
			for _, p := range todo {
				errs[p.at] = err
			}
			return
		}
		if len(changed) == 0 {
			return
		}
		todo = r.prepareAgain(ctx, todo, changed, bindings, errs)
	}
}

// commitBindings writes all or none; it returns the keys of the pods that have changed.
func (r *Registry) commitBindings(ctx context.Context, todo []pending) (changed []string, err error) {
	guards, ops := make([]storage.Guard, len(todo)), make([]storage.Op, len(todo))
	for i, p := range todo {
		guards[i] = storage.Guard{Key: p.current.Key, ModRevision: p.current.Revision}
		ops[i] = storage.Op{Key: p.current.Key, Value: p.value}
	}
	_, err = r.store.Commit(ctx, guards, ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		return conflict.Keys, nil
	}
	if err != nil {
		return nil, storeError(ctx, err)
	}
	return nil, nil
}

// prepareAgain returns what is still to be made, the changed pods read from the store.
func (r *Registry) prepareAgain(ctx context.Context, todo []pending, changed []string, bindings []Binding, errs []error) []pending {
	var rest []pending
	for _, p := range todo {
		if slices.Contains(changed, p.current.Key) {
			at := p.at
			var err error
			if p, err = r.prepareBinding(ctx, bindings[at], p.current.Key, nil); err != nil {
				errs[at] = err
				continue
			}
			p.at = at
		}
		rest = append(rest, p)
	}
	return rest
}

// prepareBinding makes the bound pod from the cached state, or, if that is nil or
// speaks against the binding, from the store's.
func (r *Registry) prepareBinding(ctx context.Context, b Binding, key string, cached *watchcache.Object) (pending, error) {
	if cached != nil {
		if value, err := b.bound(cached.Value()); err == nil {
			return pending{current: cached, value: value}, nil
		}
	}
	current, err := r.fresh(ctx, Pods, key, b.Name)
	if err != nil {
		return pending{}, err
	}
	value, err := b.bound(current.Value())
	return pending{current: current, value: value}, err
}

// bound is the stored form of the pod once it is on its node.
func (b Binding) bound(obj Object) ([]byte, error) {
	old, ok := obj.(*corev1.Pod)
	switch {
	case !ok:
		return nil, apierrors.NewInternalError(fmt.Errorf("pod %s/%s is a %T", b.Namespace, b.Name, obj))
	case b.UID != "" && string(old.UID) != b.UID:
		return nil, b.conflict(fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, old.UID))
	case old.DeletionTimestamp != nil:
		return nil, b.conflict(fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", b.Name))
	case old.Spec.NodeName != "":
		return nil, b.conflict(fmt.Errorf("pod %v is already assigned to node %q", b.Name, old.Spec.NodeName))
	case len(old.Spec.SchedulingGates) > 0:
		return nil, b.conflict(fmt.Errorf("pod %v has non-empty .spec.schedulingGates", b.Name))
	}
	// The copy is encoded and dropped, so only what changes needs to be its own.
	pod := *old
	pod.Spec.NodeName = b.Node
	pod.Status.Conditions = scheduled(old.Status.Conditions)
	value, err := Pods.codec().Encode(&pod)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return value, nil
}

// scheduled returns the conditions with PodScheduled true.
func scheduled(old []corev1.PodCondition) []corev1.PodCondition {
	conditions := slices.Clone(old)
	for i := range conditions {
		if c := &conditions[i]; c.Type == corev1.PodScheduled {
			if c.Status != corev1.ConditionTrue {
				*c = corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now(), ObservedGeneration: c.ObservedGeneration}
			}
			return conditions
		}
	}
	return append(conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now()})
}

func (b Binding) conflict(err error) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, b.Name, err)
}

package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Change is one change of a batch.
type Change struct {
	Namespace, Name string
	// Part is the subresource through which the change is made; plugins see an update of it.
	Part string
	// Apply makes the new state from the current one, which it must not change. It may be called several times, first with the cached state,
	// which can be old; its error is returned only if it comes from the store's state. What Apply returns is encoded and dropped, so that it
	// may share memory with the current state.
	Apply func(current Object) (Object, error)
}

// ModifyBatch changes objects of a kind, as many as fit into a transaction at a time, without defaults and validation: Apply must return
// valid objects. Plugins may refuse a change, but not add to it. It returns an error for each change that was not made. One change does not
// fail another: if a transaction fails because an object has changed, all are tried again, that one as it is in the store now.
func (r *Registry) ModifyBatch(ctx context.Context, k *Kind, changes []Change) []error {
	errs := make([]error, len(changes))
	if err := r.Cache(k).WaitForSync(ctx); err != nil {
		for i := range errs {
			errs[i] = StoreError(ctx, err)
		}
		return errs
	}
	for from := 0; from < len(changes); from += storage.MaxOps {
		to := min(from+storage.MaxOps, len(changes))
		b := batch{r: r, k: k, changes: changes[from:to], errs: errs[from:to]}
		b.run(ctx)
	}
	return errs
}

// batch is up to storage.MaxOps changes, of different objects.
type batch struct {
	r       *Registry
	k       *Kind
	changes []Change
	errs    []error
}

// pending is a change that is still to be made.
type pending struct {
	at      int // index of the change
	current *watchcache.Object
	value   []byte
}

// run makes the changes. Those whose objects changed since they were read are
// prepared again from the store, the others go on as they are.
func (b *batch) run(ctx context.Context) {
	var todo []pending
	seen := make(map[string]bool, len(b.changes))
	for i, c := range b.changes {
		key := b.k.Key(c.Namespace, c.Name)
		if seen[key] {
			b.errs[i] = b.k.conflict(c.Name, fmt.Errorf("%s %s is changed twice in one request", b.k.Singular, c.Name))
			continue
		}
		seen[key] = true
		current, _ := b.r.Cache(b.k).Get(key)
		if p, err := b.prepare(ctx, i, key, current); err != nil {
			b.errs[i] = err
		} else {
			todo = append(todo, p)
		}
	}
	for attempt := 1; len(todo) > 0; attempt++ {
		changed, err := b.commit(ctx, todo)
		if attempt == maxAttempts && err == nil && len(changed) > 0 {
			err = b.k.conflict("", errModified)
		}
		if apierrors.IsRequestEntityTooLargeError(err) && len(todo) > 1 {
			half := len(b.changes) / 2
			first, second := *b, *b
			first.changes, first.errs = b.changes[:half], b.errs[:half]
			second.changes, second.errs = b.changes[half:], b.errs[half:]
			first.run(ctx)
			second.run(ctx)
			return
		}
		if err != nil {
			for _, p := range todo {
				b.errs[p.at] = err
			}
			return
		}
		if len(changed) == 0 {
			return
		}
		todo = b.prepareAgain(ctx, todo, changed)
	}
}

// commit writes all or none; it returns the keys of the objects that have changed.
func (b *batch) commit(ctx context.Context, todo []pending) (changed []string, err error) {
	guards, ops := make([]storage.Guard, len(todo)), make([]storage.Op, len(todo))
	for i, p := range todo {
		guards[i] = storage.Guard{Key: p.current.Key, ModRevision: p.current.Revision}
		ops[i] = storage.Op{Key: p.current.Key, Value: p.value, TTL: b.k.TTL}
	}
	_, err = b.r.store.Commit(ctx, guards, ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		return conflict.Keys, nil
	}
	if err != nil {
		return nil, StoreError(ctx, err)
	}
	return nil, nil
}

// prepareAgain returns what is still to be made, the changed objects read from the store.
func (b *batch) prepareAgain(ctx context.Context, todo []pending, changed []string) []pending {
	var rest []pending
	for _, p := range todo {
		if slices.Contains(changed, p.current.Key) {
			at := p.at
			var err error
			if p, err = b.prepare(ctx, at, p.current.Key, nil); err != nil {
				b.errs[at] = err
				continue
			}
		}
		rest = append(rest, p)
	}
	return rest
}

// prepare makes the new state from the cached one, or, if that is nil or Apply refuses
// it, from the store's.
func (b *batch) prepare(ctx context.Context, at int, key string, cached *watchcache.Object) (pending, error) {
	c := b.changes[at]
	if cached != nil {
		if value, err := b.apply(ctx, c, cached); err == nil {
			return pending{at: at, current: cached, value: value}, nil
		}
	}
	current, err := b.r.Fresh(ctx, b.k, key, c.Name)
	if err != nil {
		return pending{}, err
	}
	value, err := b.apply(ctx, c, current)
	return pending{at: at, current: current, value: value}, err
}

func (b *batch) apply(ctx context.Context, c Change, current *watchcache.Object) ([]byte, error) {
	obj, err := c.Apply(current.Value())
	if err != nil {
		return nil, err
	}
	if err := b.r.gate.validate(ctx, attributes(ctx, b.k, c.Part, admission.Update, c.Namespace, c.Name, obj, current.Value(), false)); err != nil {
		return nil, err
	}
	value, err := b.k.Encode(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return value, nil
}

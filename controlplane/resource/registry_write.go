package resource

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// maxAttempts bounds how often a change is tried again because its object, or what is
// allocated with it, changed meanwhile.
const maxAttempts = 32

// Update replaces an object, or a part of it if sub names a subresource. The caller must
// not use obj afterwards. A resource version in it must be the current one; without one,
// any state is replaced.
func (r *Registry) Update(ctx context.Context, k *Kind, sub string, obj Object, o UpdateOptions) (Object, error) {
	ns, name := obj.GetNamespace(), obj.GetName()
	// Each attempt changes the object; if there may be several, each gets a copy.
	retried := obj.GetResourceVersion() == "" || r.config.Allocators[k.Stored()] != nil
	return r.Modify(ctx, k, sub, ns, name, o, func(Object) (Object, error) {
		if retried {
			return obj.DeepCopyObject().(Object), nil
		}
		return obj, nil
	})
}

// Modify reads an object, has change make the new state from it, and writes that; it
// tries again when another write came in between. If the new state carries another
// resource version than the current one, it is a conflict at once. change must not change
// its argument; returning that means no change. It may be called several times, first
// with the cached state, which can be old. Errors of change are returned as they are.
func (r *Registry) Modify(ctx context.Context, k *Kind, sub, ns, name string, o UpdateOptions, change func(current Object) (Object, error)) (Object, error) {
	return r.ModifyWith(ctx, k, sub, ns, name, o, func(current Object, _ *Tx) (Object, error) { return change(current) })
}

// ModifyWith is Modify for a change that must be written together with other keys: what
// change adds to tx is guarded and written with the object, or not at all. If a guard
// does not hold, change is called again, with a new tx.
func (r *Registry) ModifyWith(ctx context.Context, k *Kind, sub, ns, name string, o UpdateOptions, change func(current Object, tx *Tx) (Object, error)) (Object, error) {
	if k.stored != nil {
		return r.modifyIn(ctx, k, sub, ns, name, o, change)
	}
	rules, ok := k.updateRules(sub)
	if !ok {
		return nil, k.notFound(name)
	}
	if err := r.Cache(k).WaitForSync(ctx); err != nil {
		return nil, StoreError(ctx, err)
	}
	u := modification{r: r, k: k, rules: rules, part: sub, key: k.Key(ns, name), name: name, options: o, change: change}
	for range maxAttempts {
		result, err := u.attempt(ctx)
		if !errors.Is(err, errAgain) {
			return result, err
		}
	}
	return nil, k.conflict(name, errModified)
}

// errAgain says that an attempt was made on an old state and is to be repeated.
var errAgain = errors.New("state was old")

// modification is one call of Modify.
type modification struct {
	r       *Registry
	k       *Kind
	rules   *UpdateRules
	part    string
	key     string
	name    string
	options UpdateOptions
	change  func(Object, *Tx) (Object, error)
	// next is the state to make the next attempt on, nil for the cached one.
	next *watchcache.Object
}

func (u *modification) attempt(ctx context.Context) (Object, error) {
	current, cached := u.next, false
	if u.next = nil; current == nil {
		current, cached = u.r.Cache(u.k).Get(u.key)
	}
	if current == nil {
		var err error
		if current, err = u.r.Fresh(ctx, u.k, u.key, u.name); err != nil {
			return nil, err
		}
	}
	result, err := u.try(ctx, current)
	if err == nil && result != current.Value() || errors.Is(err, errAgain) || !cached {
		return result, err
	}
	// An error, or that there is nothing to do, may be only because the state is old.
	now, freshErr := u.r.Fresh(ctx, u.k, u.key, u.name)
	if freshErr != nil {
		return nil, freshErr
	}
	if now.Revision == current.Revision {
		return result, err
	}
	u.next = now
	return nil, errAgain
}

// try returns the current value itself if there is nothing to write.
func (u *modification) try(ctx context.Context, current *watchcache.Object) (Object, error) {
	old := current.Value()
	if err := u.k.check(u.options.Preconditions, old); err != nil {
		return nil, err
	}
	var tx Tx
	obj, err := u.change(old, &tx)
	if err != nil || obj == old {
		return obj, err
	}
	if err := u.k.sameObject(obj, old); err != nil {
		return nil, err
	}
	if u.k.Default != nil {
		u.k.Default(obj)
	}
	if !u.options.FieldsTracked {
		if err := u.k.track(ctx, u.part, obj, old, u.options.FieldManager); err != nil {
			return nil, err
		}
	}
	admitted := attributes(ctx, u.k, u.part, admission.Update, old.GetNamespace(), old.GetName(), obj, old, u.options.DryRun)
	if err := u.r.gate.admit(ctx, admitted); err != nil {
		return nil, err
	}
	u.prepare(obj, old)
	finished := u.k.finished(obj, old)
	if !finished {
		if err := u.r.allocate(ctx, u.k, &tx, u.part, obj, old); err != nil {
			return nil, err
		}
	}
	if err := u.validate(obj, old); err != nil {
		return nil, err
	}
	if err := u.r.gate.validate(ctx, admitted); err != nil {
		return nil, err
	}
	if finished {
		return u.remove(ctx, current, obj)
	}
	return u.write(ctx, &tx, current, obj)
}

// sameObject refuses an update with another UID or another resource version than the object's.
func (k *Kind) sameObject(obj, old Object) error {
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return k.check(&metav1.Preconditions{UID: &uid}, old)
	}
	if v := obj.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return k.conflict(old.GetName(), errModified)
	}
	return nil
}

// prepare sets the fields that an update cannot change.
func (u *modification) prepare(obj, old Object) {
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	if u.rules.PrepareForUpdate != nil {
		u.rules.PrepareForUpdate(obj, old)
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	if old.GetDeletionTimestamp() != nil {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	if u.k.SpecChanged != nil {
		obj.SetGeneration(old.GetGeneration())
		if u.rules != u.k.Status && u.k.SpecChanged(obj, old) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
}

// validate validates an object after what is allocated for it has been set.
func (u *modification) validate(obj, old Object) error {
	if u.rules.Validate != nil {
		if errs := u.rules.Validate(obj, old); len(errs) > 0 {
			return u.k.invalid(obj.GetName(), errs)
		}
	}
	if u.k.Canonicalize != nil {
		u.k.Canonicalize(obj)
	}
	return nil
}

func (u *modification) write(ctx context.Context, tx *Tx, current *watchcache.Object, obj Object) (Object, error) {
	value, err := u.k.Encode(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	before, err := u.k.Encode(current.Value())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if unchanged := bytes.Equal(value, before) || u.onlyTimes(obj, current.Value(), before); unchanged && !u.rewrites(ctx) {
		if len(tx.Ops) == 0 || u.options.DryRun {
			return current.Value(), nil
		}
		tx.Guards = append(tx.Guards, storage.Guard{Key: u.key, ModRevision: current.Revision})
		return current.Value(), u.commit(ctx, tx, nil)
	}
	obj.GetObjectKind().SetGroupVersionKind(u.k.GVK)
	if u.options.DryRun {
		return obj, nil
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: u.key, ModRevision: current.Revision})
	tx.Ops = append(tx.Ops, storage.Op{Key: u.key, Value: value, TTL: u.k.TTL})
	return obj, u.commit(ctx, tx, obj)
}

// onlyTimes says whether an update changes only the time when its manager last wrote, which is not worth a write.
func (u *modification) onlyTimes(obj, old Object, before []byte) bool {
	entries := obj.GetManagedFields()
	if !tracked(obj) || !sameManagers(entries, old.GetManagedFields()) {
		return false
	}
	obj.SetManagedFields(old.GetManagedFields())
	value, err := u.k.Encode(obj)
	if err == nil && bytes.Equal(value, before) {
		return true
	}
	obj.SetManagedFields(entries)
	return false
}

// rewrites says whether a write without a change is to be written to the store all the same.
func (u *modification) rewrites(ctx context.Context) bool {
	return u.r.config.Encrypted && !u.options.DryRun && u.r.stale(ctx, u.key)
}

// remove deletes an object that was only waiting for its last finalizer.
func (u *modification) remove(ctx context.Context, current *watchcache.Object, obj Object) (Object, error) {
	var tx Tx
	if err := u.r.allocate(ctx, u.k, &tx, "", nil, current.Value()); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(u.k.GVK)
	if u.options.DryRun {
		return obj, nil
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: u.key, ModRevision: current.Revision})
	tx.Ops = append(tx.Ops, storage.Op{Key: u.key, Delete: true})
	return obj, u.commit(ctx, &tx, obj)
}

// commit writes, and sets the revision of obj; nil: the object itself is not written.
func (u *modification) commit(ctx context.Context, tx *Tx, obj Object) error {
	revision, err := u.r.store.Commit(ctx, tx.Guards, tx.Ops)
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		if err := u.r.catchUp(ctx, conflict); err != nil {
			return err
		}
		if u.next, err = u.r.Fresh(ctx, u.k, u.key, u.name); err != nil {
			return err
		}
		return errAgain
	}
	if err != nil {
		return StoreError(ctx, err)
	}
	if obj != nil {
		obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	}
	return nil
}

// finished says that an update leaves nothing for an object that is being
// deleted to wait for.
func (k *Kind) finished(obj, old Object) bool {
	if old.GetDeletionTimestamp() == nil || k.awaited(obj) {
		return false
	}
	grace := old.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// catchUp waits until the caches of the kinds whose keys were in conflict have the
// conflicting writes, so that the same is not allocated again.
func (r *Registry) catchUp(ctx context.Context, conflict *storage.ConflictError) error {
	for _, k := range r.Kinds() {
		prefix := k.Prefix()
		for _, key := range conflict.Keys {
			if strings.HasPrefix(key, prefix) {
				if err := r.WaitForStore(ctx, k); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// now is the time in whole seconds, as objects carry it.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

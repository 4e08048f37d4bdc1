package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// freshWait is how long a read waits for a revision that the cache does not have yet.
const freshWait = 3 * time.Second

// Get reads one object. It is as fresh as minRevision says: "" is linearizable,
// "0" takes what the cache has, and a revision waits until the cache has it.
func (r *Registry) Get(ctx context.Context, k *Kind, ns, name string, minRevision string) (Object, error) {
	if k.stored != nil {
		return k.converted(r.Get(ctx, k.stored, ns, name, minRevision))
	}
	key := k.Key(ns, name)
	if minRevision == "" {
		o, err := r.Fresh(ctx, k, key, name)
		if err != nil {
			return nil, err
		}
		return o.Value(), nil
	}
	revision, err := ParseRevision(minRevision)
	if err != nil {
		return nil, err
	}
	if err := r.WaitUntil(ctx, k, revision); err != nil {
		return nil, err
	}
	o, err := r.cached(k, key, name)
	if err != nil {
		return nil, err
	}
	return o.Value(), nil
}

// Fresh reads an object from the store; if the cache has the same state, that is returned.
func (r *Registry) Fresh(ctx context.Context, k *Kind, key, name string) (*watchcache.Object, error) {
	kv, err := r.store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, k.notFound(name)
	}
	if err != nil {
		return nil, StoreError(ctx, err)
	}
	if o, ok := r.Cache(k).Get(key); ok && o.Revision == kv.ModRevision {
		return o, nil
	}
	o, err := k.Decode(kv)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return o, nil
}

// cached reads an object from the cache. One that is stored but cannot be decoded is an error, and not absent.
func (r *Registry) cached(k *Kind, key, name string) (*watchcache.Object, error) {
	if o, ok := r.Cache(k).Get(key); ok {
		return o, nil
	}
	for _, u := range r.Cache(k).Unreadable(key) {
		if u.Key == key {
			return nil, apierrors.NewInternalError(corrupt(key, u.Err))
		}
	}
	return nil, k.notFound(name)
}

// WaitUntil waits until the cache has a revision; it does not wait for 0.
func (r *Registry) WaitUntil(ctx context.Context, k *Kind, revision int64) error {
	c := r.Cache(k)
	limited, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	err := c.WaitUntil(limited, revision)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, watchcache.ErrClosed) {
		return StoreError(ctx, cmp.Or(ctx.Err(), err))
	}
	return tooNew(revision, c.Revision())
}

// WaitForStore waits until the cache has all that the store has now.
func (r *Registry) WaitForStore(ctx context.Context, k *Kind) error {
	revision, err := r.store.Revision(ctx)
	if err != nil {
		return StoreError(ctx, err)
	}
	return r.WaitUntil(ctx, k, revision)
}

// ParseRevision reads a resource version; "" is 0.
func ParseRevision(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	revision, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: %v", s, err))
	}
	return int64(revision), nil
}

// Get reads an object from the cache.
func Get[T Object](ctx context.Context, r *Registry, k *Kind, ns, name string) (T, error) {
	var none T
	if err := r.Cache(k).WaitForSync(ctx); err != nil {
		return none, err
	}
	o, err := r.cached(k, k.Key(ns, name), name)
	if err != nil {
		return none, err
	}
	return as[T](o)
}

// ListAs lists from the cache, in order of namespace and name. An empty namespace
// means all, a nil selector everything.
func ListAs[T Object](r *Registry, k *Kind, ns string, sel labels.Selector) []T {
	var objects []T
	r.Cache(k).Snapshot().Ascend(k.prefix(ns), "", func(o *watchcache.Object) bool {
		if sel == nil || sel.Matches(labels.Set(o.Value().GetLabels())) {
			if obj, err := as[T](o); err == nil {
				objects = append(objects, obj)
			}
		}
		return true
	})
	return objects
}

// ByIndex lists from the cache what an index of the kind has under value.
func ByIndex[T Object](r *Registry, k *Kind, index, value string) []T {
	found := r.Cache(k).ByIndex(index, value)
	objects := make([]T, 0, len(found))
	for _, o := range found {
		if obj, err := as[T](o); err == nil {
			objects = append(objects, obj)
		}
	}
	return objects
}

func as[T Object](o *watchcache.Object) (T, error) {
	obj, ok := o.Value().(T)
	if !ok {
		return obj, apierrors.NewInternalError(fmt.Errorf("%s holds a %T", o.Key, o.Value()))
	}
	return obj, nil
}

// prefix is that of the keys of a namespace, or of all objects of the kind.
func (k *Kind) prefix(ns string) string {
	prefix := k.Prefix()
	if ns == "" || !k.Namespaced {
		return prefix
	}
	return prefix + ns + "/"
}

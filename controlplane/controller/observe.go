package controller

import (
	"context"
	"strconv"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Observe calls change for every object that exists and then for every change,
// in order: old is nil for an object that is new, cur is nil for one that is
// gone; revision is that of the change. change must not block.
// After ctx ends it is not called again.
func Observe[T resource.Object](ctx context.Context, r *resource.Registry, k *resource.Kind, change func(old, cur T, revision int64)) {
	// The registry keeps its subscribers for ever; what hangs on them must not be kept.
	var live atomic.Pointer[func(old, cur T, revision int64)]
	live.Store(&change)
	context.AfterFunc(ctx, func() { live.Store(nil) })
	r.Subscribe(k, func(e watchcache.Event) {
		change := live.Load()
		if change == nil || e.Object == nil {
			return
		}
		var old, cur T
		if e.Previous != nil {
			old = e.Previous.Value().(T)
		}
		if e.Type != watch.Deleted {
			cur = e.Object.Value().(T)
		} else if e.Previous == nil {
			old = e.Object.Value().(T)
		}
		(*change)(old, cur, e.Revision)
	})
}

// Revision is the revision that made the state of an object; 0 for one that was never stored.
func Revision(obj metav1.Object) int64 {
	revision, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return revision
}

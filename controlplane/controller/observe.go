package controller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Observe calls change for every object that exists, and then, from a goroutine
// of wg until ctx ends, for every change in order. It returns when what existed
// has been delivered, so that a loop decides on the whole state after that. It ends when the kind is no longer served. old is the zero
// value for a new object, cur for a deleted one; revision is that of the change. change must not block.
func Observe[T resource.Object](ctx context.Context, wg *sync.WaitGroup, r *resource.Registry, k *resource.Kind, change func(old, cur T, revision int64)) {
	delivered := make(chan struct{})
	arrived := sync.OnceFunc(func() { close(delivered) })
	Go(ctx, wg, "changes of "+k.Resource, func() {
		err := r.Cache(k).Follow(ctx, func(e watchcache.Event) {
			if e.InitialEventsEnd {
				arrived()
			}
			if e.Object == nil {
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
			change(old, cur, e.Revision)
		})
		arrived()
		if ctx.Err() == nil && !errors.Is(err, watchcache.ErrClosed) {
			Fail(ctx, fmt.Errorf("control loop no longer sees changes of %s: %w", k.Resource, err))
		}
	})
	select {
	case <-delivered:
	case <-ctx.Done():
	}
}

// Revision is the revision that made the state of an object; 0 for one that was never stored.
func Revision(obj metav1.Object) int64 {
	revision, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return revision
}

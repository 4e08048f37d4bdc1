package controller

import (
	"context"
	"slices"
	"sync"

	"github.com/skep-io/skep/controlplane/resource"
)

// ObserveKinds calls begin for every kind that is served, and then, from a goroutine of wg until ctx ends, for every one that is
// served later. The context that begin gets ends when the kind is no longer served. It returns when begin has returned for all kinds that
// are served now.
func ObserveKinds(ctx context.Context, wg *sync.WaitGroup, r *resource.Registry, begin func(ctx context.Context, k *resource.Kind)) {
	changed := make(chan struct{}, 1)
	stop := r.Follow(func([]*resource.Kind) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	observed := map[*resource.Kind]context.CancelFunc{}
	look := func() {
		kinds := r.Kinds()
		for k, end := range observed {
			if !slices.Contains(kinds, k) {
				end()
				delete(observed, k)
			}
		}
		for _, k := range kinds {
			if observed[k] == nil {
				var kindCtx context.Context
				kindCtx, observed[k] = context.WithCancel(ctx)
				begin(kindCtx, k)
			}
		}
	}
	look()
	Go(ctx, wg, "changes of kinds", func() {
		defer stop()
		for {
			select {
			case <-ctx.Done():
				for _, end := range observed {
					end()
				}
				return
			case <-changed:
				look()
			}
		}
	})
}

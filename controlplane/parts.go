package controlplane

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/controlplane/controller"
)

// parts are what a skepd runs side by side. The first part that ends, with an error or without, ends all: otherwise nothing would do its
// work for as long as the others run.
type parts struct {
	group *errgroup.Group
	ctx   context.Context // ends with the first part
}

func newParts(ctx context.Context) *parts {
	group, ctx := errgroup.WithContext(ctx)
	return &parts{group: group, ctx: ctx}
}

// run starts a part. One that returns without an error, panics, or has a control loop that fails is a failure too, until ctx ends.
func (p *parts) run(name string, part func(context.Context) error) {
	p.group.Go(func() error {
		ctx, stop := controller.WithFailure(p.ctx)
		defer stop()
		var err error
		controller.Guard(ctx, name, func() { err = part(ctx) })
		switch {
		case p.ctx.Err() != nil:
			return p.ctx.Err()
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", name, context.Cause(ctx))
		case err == nil:
			return fmt.Errorf("%s: %w", name, errLoopReturned)
		}
		return err
	})
}

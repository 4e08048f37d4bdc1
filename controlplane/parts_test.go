package controlplane

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/skep-io/skep/controlplane/controller"
)

// If any part of a skepd ends, with an error or without, all parts end, with an error that names it.
func TestOnePartThatEndsEndsAll(t *testing.T) {
	for want, ending := range map[string]func(context.Context) error{
		"lost":                     func(context.Context) error { return errors.New("lost") },
		"it returned":              func(context.Context) error { return nil },
		`"caches" panicked: a bug`: func(context.Context) error { panic("a bug") },
		"no longer sees changes": func(ctx context.Context) error {
			controller.Fail(ctx, errors.New("no longer sees changes"))
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		t.Run(want, func(t *testing.T) {
			p := newParts(t.Context())
			p.run("API server", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			p.run("caches", ending)
			if err := p.group.Wait(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("ended with %v, want %q", err, want)
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	p := newParts(ctx)
	p.run("API server", func(ctx context.Context) error { <-ctx.Done(); return nil })
	stop()
	if err := p.group.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

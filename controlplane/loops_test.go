package controlplane

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

type loopFunc func(context.Context) error

func (f loopFunc) Run(ctx context.Context) error { return f(ctx) }

// A loop that ends, with an error or without, ends the others, and the error names it.
func TestOneLoopThatEndsEndsAll(t *testing.T) {
	for name, ending := range map[string]loopFunc{
		"an error": func(context.Context) error { return errors.New("lost") },
		"nothing":  func(context.Context) error { return nil },
		"a panic":  func(context.Context) error { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := controller.WithFailure(t.Context())
			defer stop()
			var wg sync.WaitGroup
			runLoops(ctx, &wg, map[string]loop{
				"endpoints": ending,
				"scheduler": loopFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }),
			})
			wg.Wait()
			if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), `control loop "endpoints"`) {
				t.Errorf("the loops end with %v", err)
			}
		})
	}
}

// Loops do not begin while a stored node cannot be decoded: they would delete its pods.
func TestLoopsWaitForUnreadableObjects(t *testing.T) {
	registry := controlplanetest.Start(t)
	put := func(op storage.Op) {
		t.Helper()
		revision, err := registry.Store().Commit(t.Context(), nil, []storage.Op{op})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []*resource.Kind{kinds.Nodes, kinds.ConfigMaps} {
			if err := registry.Cache(k).WaitUntil(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(storage.Op{Key: "/registry/configmaps/default/broken", Value: []byte("k8s\x00\xff")})
	if err := complete(registry); err != nil {
		t.Errorf("a config map that no loop decides by: %v", err)
	}
	put(storage.Op{Key: "/registry/minions/broken", Value: []byte("k8s\x00\xff")})
	if err := complete(registry); err == nil || !strings.Contains(err.Error(), "/registry/minions/broken") {
		t.Errorf("an unreadable node: %v, want an error with its key", err)
	}
	put(storage.Op{Key: "/registry/minions/broken", Delete: true})
	if err := complete(registry); err != nil {
		t.Error(err)
	}
}

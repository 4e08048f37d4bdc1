package resource_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/skep-io/skep/controlplane/kinds"
)

// A cache that ends by itself ends the registry with an error: otherwise reads would get no new state of its kind.
func TestCacheThatEndsEndsTheRegistry(t *testing.T) {
	_, store := newRegistry(t)
	r := kinds.NewRegistry(store, kinds.Options{})
	ctx, stop := context.WithCancel(testContext(t))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	// The registry's Run of a cache that runs already returns at once.
	pods := r.Cache(kinds.Pods)
	wg.Go(func() { _ = pods.Run(ctx) })
	if err := pods.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(ctx); err == nil || !strings.Contains(err.Error(), "the cache of pods ended") {
		t.Errorf("the registry ended with %v", err)
	}
}

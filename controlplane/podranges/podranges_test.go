package podranges

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controlplanetest"
)

func follow(t *testing.T, r *Ranges) {
	t.Helper()
	controlplanetest.Go(t, func(ctx context.Context) { _ = r.Run(ctx) })
	if err := r.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func rangeOf(n int) allocator.PodRange {
	return allocator.PodRange{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n)), NodeMask: 24}
}

// Servers that add ranges at the same moment lose none, all of them have the same list, and the next start has it too.
func TestServersAgree(t *testing.T) {
	store := controlplanetest.Start(t).Store()
	var servers []*Ranges
	for range 3 {
		servers = append(servers, New(store))
		follow(t, servers[len(servers)-1])
	}
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			want := rangeOf(100 + i)
			if err := s.Add(t.Context(), func([]allocator.PodRange) (allocator.PodRange, error) { return want, nil }); err != nil {
				t.Error(err)
			}
			if !slices.Contains(s.Added(), want) {
				t.Errorf("server %d has added %v and knows %v", i, want, s.Added())
			}
		})
	}
	wg.Wait()
	again := New(store)
	follow(t, again)
	list := again.Added()
	if len(list) != len(servers) {
		t.Fatalf("the store has %v", list)
	}
	for i, s := range servers {
		for deadline := time.Now().Add(time.Minute); !slices.Equal(s.Added(), list); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("server %d knows %v, and the store has %v", i, s.Added(), list)
			}
		}
	}
	err := again.Add(t.Context(), func(added []allocator.PodRange) (allocator.PodRange, error) {
		if !slices.Equal(added, list) {
			t.Errorf("choose is called with %v", added)
		}
		return added[1], nil
	})
	if err != nil || !slices.Equal(again.Added(), list) {
		t.Errorf("added twice: %v, %v", again.Added(), err)
	}
	if err := again.Add(t.Context(), func([]allocator.PodRange) (allocator.PodRange, error) { return rangeOf(1), os.ErrInvalid }); err != os.ErrInvalid || len(again.Added()) != len(list) {
		t.Errorf("what is refused: %v, %v", again.Added(), err)
	}
}

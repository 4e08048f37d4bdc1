package leader_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/leader"
	"github.com/skep-io/skep/controlplane/resource"
)

func writeAs(ctx context.Context, registry *resource.Registry, name string) error {
	_, err := registry.Create(ctx, kinds.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}, resource.CreateOptions{})
	return err
}

// A leader that was paused, and goes on after another has taken over, writes nothing any more: neither a single object nor a batch, though it has
// not noticed yet. Without the fence, only clocks keep two leaders apart.
func TestWritesOfAnEarlierLeaderAreRefused(t *testing.T) {
	registry := controlplanetest.Start(t)
	firstCtx := make(chan context.Context, 1)
	release := make(chan struct{})
	firstEnded := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	paused, pause := context.WithCancel(ctx)
	go func() {
		firstEnded <- leader.Run(paused, registry, "first", func(ctx context.Context) error {
			firstCtx <- ctx
			<-release // it notices nothing: its process is paused
			return nil
		})
	}()
	old := <-firstCtx
	if err := writeAs(old, registry, "by-the-first"); err != nil {
		t.Fatal(err)
	}
	pause() // it renews no more
	second := make(chan context.Context, 1)
	secondCtx, end := context.WithCancel(ctx)
	defer end()
	secondEnded := make(chan error, 1)
	go func() {
		secondEnded <- leader.Run(secondCtx, registry, "second", func(ctx context.Context) error {
			second <- ctx
			<-ctx.Done()
			return nil
		})
	}()
	var now context.Context
	select {
	case now = <-second:
	case <-ctx.Done():
		t.Fatal("nobody took over")
	}
	if err := writeAs(now, registry, "by-the-second"); err != nil {
		t.Errorf("the leader cannot write: %v", err)
	}
	late := context.WithoutCancel(old) // as a request that was sent before and arrives now
	if err := writeAs(late, registry, "too-late"); err == nil || !strings.Contains(err.Error(), "another server leads now") {
		t.Errorf("a write of the earlier leader: %v", err)
	}
	errs := registry.ModifyBatch(late, kinds.ConfigMaps, []resource.Change{{Namespace: "default", Name: "by-the-second", Apply: func(current resource.Object) (resource.Object, error) {
		changed := current.DeepCopyObject().(*corev1.ConfigMap)
		changed.Data = map[string]string{"by": "first"}
		return changed, nil
	}}})
	if len(errs) != 1 || errs[0] == nil || !strings.Contains(errs[0].Error(), "another server leads now") {
		t.Errorf("a batch of the earlier leader: %v", errs)
	}
	if _, err := registry.Get(ctx, kinds.ConfigMaps, "default", "too-late", ""); err == nil {
		t.Error("the late write is stored")
	}
	close(release)
	end()
	for _, ended := range []chan error{firstEnded, secondEnded} {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a leader ends with %v", err)
		}
	}
}

// One of several servers that is lost is replaced within about two seconds; the bound here is for a busy machine.
func TestTakeoverAmongSeveral(t *testing.T) {
	registry := controlplanetest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	others := func() bool { return true }
	leading := make(chan struct{})
	dead, kill := context.WithCancel(ctx)
	release := make(chan struct{})
	defer close(release)
	go func() {
		_ = leader.RunAmong(dead, registry, "first", others, func(context.Context) error {
			close(leading)
			<-release // a dead one gives nothing up
			return nil
		})
	}()
	<-leading
	second := make(chan struct{})
	go func() {
		_ = leader.RunAmong(ctx, registry, "second", others, func(ctx context.Context) error {
			close(second)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	time.Sleep(500 * time.Millisecond) // so that the second one has seen the lease, as a running server has; not a wait for a state
	began := time.Now()
	kill()
	select {
	case <-second:
		t.Logf("taken over after %v", time.Since(began).Round(time.Millisecond))
	case <-ctx.Done():
		t.Fatal("nobody took over")
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the takeover took %v: as long as that of a server without others", took)
	}
}

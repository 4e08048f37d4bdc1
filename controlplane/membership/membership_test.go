package membership

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/resource"
)

func follow(t *testing.T, registry *resource.Registry) *Members {
	t.Helper()
	m := New(registry.Store())
	controlplanetest.Go(t, func(ctx context.Context) { _ = m.Run(ctx) })
	if err := m.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// counts asks until the answer is the wanted one: what another process wrote arrives a moment later.
func counts(t *testing.T, m *Members, name, id string, want bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		leave, ok := m.Enter(name, id, func() {})
		if ok {
			leave()
		}
		if ok == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a certificate of %s with number %q counts: %v, want %v", name, id, ok, want)
		}
		<-time.NewTimer(time.Millisecond).C
	}
}

func makeNode(t *testing.T, registry *resource.Registry, name string) {
	t.Helper()
	controlplanetest.Create(t, registry, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func remove(t *testing.T, registry *resource.Registry, name string) {
	t.Helper()
	if _, _, err := registry.Delete(t.Context(), resource.Nodes, "", name, nil); err != nil {
		t.Fatal(err)
	}
}

// A membership ends with the Node, in this process and in others, running or started later, and cancels what is under way.
func TestMembershipEndsWithTheNode(t *testing.T) {
	registry := controlplanetest.Start(t)
	here, there := follow(t, registry), follow(t, registry)
	id, err := here.Join(t.Context(), "n", false)
	if err != nil {
		t.Fatal(err)
	}
	makeNode(t, registry, "n")
	counts(t, here, "n", id, true)
	counts(t, there, "n", id, true)
	for _, wrong := range []string{"", "0", id + "0"} {
		counts(t, here, "n", wrong, false)
	}
	if _, err := there.Join(t.Context(), "n", false); !errors.Is(err, ErrTaken) {
		t.Errorf("the name of a node that exists: %v", err)
	}
	under, cancel := context.WithCancel(t.Context())
	leave, ok := there.Enter("n", id, cancel)
	if !ok {
		t.Fatal("not let in")
	}
	defer leave()
	remove(t, registry, "n")
	select {
	case <-under.Done():
	case <-time.After(30 * time.Second):
		t.Error("what was under way goes on")
	}
	for _, m := range []*Members{here, there, follow(t, registry)} {
		counts(t, m, "n", id, false)
	}
	again, err := here.Join(t.Context(), "n", false)
	if err != nil || again == id {
		t.Fatalf("joined anew with number %q, was %q (%v)", again, id, err)
	}
	for _, m := range []*Members{here, there, follow(t, registry)} {
		counts(t, m, "n", again, true)
		counts(t, m, "n", id, false)
	}
}

// Nodes of an earlier version keep their certificates, which have no number, until they are deleted; nobody else gets in without.
func TestNodesFromBefore(t *testing.T) {
	registry := controlplanetest.Start(t)
	makeNode(t, registry, "old")
	for range 2 {
		if err := Record(t.Context(), registry.Store()); err != nil {
			t.Fatal(err)
		}
	}
	makeNode(t, registry, "new") // by hand: it has no certificate
	if err := Record(t.Context(), registry.Store()); err != nil {
		t.Fatal(err)
	}
	m := follow(t, registry)
	counts(t, m, "old", "", true)
	counts(t, m, "new", "", false)
	counts(t, m, "none", "", false)
	id, ok := m.Number("old")
	if !ok {
		t.Fatal("no number for the next certificate")
	}
	counts(t, m, "old", id, true)
	remove(t, registry, "old")
	counts(t, m, "old", "", false)
	counts(t, m, "old", id, false)
	makeNode(t, registry, "old")
	counts(t, m, "old", "", false)
	if id, err := m.Join(t.Context(), "old", true); err != nil {
		t.Error(err)
	} else {
		counts(t, m, "old", id, true)
		counts(t, m, "old", "", false)
	}
}

package apiserver

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/controller/gc"
	namespaces "github.com/skep-io/skep/controlplane/controller/namespace"
	"github.com/skep-io/skep/controlplane/kinds"
)

// TestKindComesAndGoes serves a kind while the server runs: it is discovered, explained, watched, collected with its owner and
// emptied with its namespace; and it is withdrawn again, which ends its watches and leaves its objects stored.
func TestKindComesAndGoes(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { _ = gc.New(shared.registry).Run(ctx) })
	loops.Go(func() { _ = namespaces.New(shared.registry).Run(ctx) })
	defer loops.Wait()
	defer stop()
	shared.registry.Withdraw(kinds.PodTemplates)
	wantServed(t, false)
	if err := shared.registry.Serve(kinds.PodTemplates); err != nil {
		t.Fatal(err)
	}
	if err := shared.registry.Serve(kinds.PodTemplates); err == nil {
		t.Error("a kind can be served twice")
	}
	wantServed(t, true)

	ns := namespace(t)
	templates := shared.client.CoreV1().PodTemplates(ns)
	events, err := templates.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := shared.client.CoreV1().ConfigMaps(ns).Create(ctx, configMap("owner"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := podTemplate("owned")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	for _, template := range []*corev1.PodTemplate{owned, podTemplate("free")} {
		if _, err := templates.Create(ctx, template, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		wantEvent(t, events, watch.Added, template.Name)
	}
	if err := shared.client.CoreV1().ConfigMaps(ns).Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, events, watch.Deleted, "owned")

	shared.registry.Withdraw(kinds.PodTemplates)
	wantServed(t, false)
	if e, open := <-events.ResultChan(); open {
		t.Errorf("the watch of a kind that is gone shows %v", e)
	}
	if err := shared.registry.Serve(kinds.PodTemplates); err != nil {
		t.Fatal(err)
	}
	if _, err := templates.Get(ctx, "free", metav1.GetOptions{}); err != nil {
		t.Errorf("an object of a kind that was away: %v", err)
	}
	if events, err = templates.Watch(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, events, watch.Added, "free")
	if err := shared.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, events, watch.Deleted, "free")
}

// wantServed tests what clients see of PodTemplates.
func wantServed(t *testing.T, served bool) {
	t.Helper()
	list, err := shared.client.Discovery().ServerResourcesForGroupVersion("v1")
	if err != nil {
		t.Fatal(err)
	}
	if discovered := slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "podtemplates" }); discovered != served {
		t.Errorf("discovered: %t, want %t", discovered, served)
	}
	_, document := shared.raw(t, shared.config, "GET", "/openapi/v3/api/v1", nil, "")
	if explained := strings.Contains(string(document), "/api/v1/namespaces/{namespace}/podtemplates/{name}"); explained != served {
		t.Errorf("explained: %t, want %t", explained, served)
	}
	_, err = shared.client.CoreV1().PodTemplates("default").List(t.Context(), metav1.ListOptions{})
	if served && err != nil || !served && !apierrors.IsNotFound(err) {
		t.Errorf("listed: %v, want served: %t", err, served)
	}
}

func podTemplate(name string) *corev1.PodTemplate {
	return &corev1.PodTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Template:   corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}
}

func wantEvent(t *testing.T, events watch.Interface, kind watch.EventType, name string) {
	t.Helper()
	for timeout := time.After(time.Minute); ; {
		select {
		case e, open := <-events.ResultChan():
			if !open {
				t.Fatalf("the watch ended before %s of %s", kind, name)
			}
			if obj, ok := e.Object.(metav1.Object); ok && e.Type == kind && obj.GetName() == name {
				return
			}
		case <-timeout:
			t.Fatalf("no event %s of %s", kind, name)
		}
	}
}

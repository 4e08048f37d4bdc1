package apiserver

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// An informer fills itself over one watch, follows changes, and sees deletions.
func TestInformers(t *testing.T) {
	for _, mediaType := range []string{mediaJSON, mediaProtobuf} {
		t.Run(mediaType, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			ns := namespace(t)
			client := withContentType(t, mediaType)
			for i := range 20 {
				if _, err := client.CoreV1().ConfigMaps(ns).Create(ctx, configMap(fmt.Sprintf("m%d", i)), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
			informer := factory.Core().V1().ConfigMaps().Informer()
			events := make(chan string, 100)
			note := func(what string, obj any) {
				if cm, ok := obj.(*corev1.ConfigMap); ok {
					events <- what + " " + cm.Name + " " + cm.Data["k"]
				}
			}
			_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
				UpdateFunc: func(_, obj any) { note("changed", obj) }, DeleteFunc: func(obj any) { note("deleted", obj) },
			})
			if err != nil {
				t.Fatal(err)
			}
			factory.Start(ctx.Done())
			if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
				t.Fatal("the informer did not fill")
			}
			if n := len(informer.GetStore().List()); n != 20 {
				t.Errorf("%d of 20 objects", n)
			}
			if _, err := client.CoreV1().ConfigMaps(ns).Update(ctx, configMap("m3", "k", "new"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := client.CoreV1().ConfigMaps(ns).Delete(ctx, "m4", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"changed m3 new", "deleted m4 "} {
				select {
				case got := <-events:
					if got != want {
						t.Errorf("event %q, want %q", got, want)
					}
				case <-ctx.Done():
					t.Fatalf("no event, want %q", want)
				}
			}
		})
	}
}

// A watch shows each change of selected objects, and which objects begin or cease to be selected.
func TestWatchSelection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	maps := shared.client.CoreV1().ConfigMaps(namespace(t))
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "in", ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	labelled := func(name, label string) *corev1.ConfigMap {
		cm := configMap(name)
		cm.Labels = map[string]string{label: ""}
		return cm
	}
	steps := []func() error{
		func() error { _, err := maps.Create(ctx, labelled("a", "out"), metav1.CreateOptions{}); return err },
		func() error { _, err := maps.Update(ctx, labelled("a", "in"), metav1.UpdateOptions{}); return err },
		func() error { _, err := maps.Create(ctx, labelled("b", "in"), metav1.CreateOptions{}); return err },
		func() error { _, err := maps.Update(ctx, labelled("a", "out"), metav1.UpdateOptions{}); return err },
		func() error { return maps.Delete(ctx, "a", metav1.DeleteOptions{}) },
		func() error { return maps.Delete(ctx, "b", metav1.DeleteOptions{}) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	last := list.ResourceVersion
	for _, want := range []struct {
		event watch.EventType
		name  string
	}{{watch.Added, "a"}, {watch.Added, "b"}, {watch.Deleted, "a"}, {watch.Deleted, "b"}} {
		select {
		case event := <-w.ResultChan():
			cm, ok := event.Object.(*corev1.ConfigMap)
			if !ok || event.Type != want.event || cm.Name != want.name {
				t.Fatalf("event %s %v, want %v", event.Type, event.Object, want)
			}
			if cm.ResourceVersion == last {
				t.Errorf("%s %s carries the revision of the event before it", event.Type, cm.Name)
			}
			last = cm.ResourceVersion
		case <-ctx.Done():
			t.Fatalf("no event, want %v", want)
		}
	}
}

func TestWatchEndsWithItsTimeout(t *testing.T) {
	seconds := int64(1)
	w, err := shared.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &seconds, ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			t.Errorf("ended with %v", event.Object)
		}
	}
}

// A restarted server has no events from before: a watch from an earlier revision gets that error inside the stream.
func TestWatchFromBeforeARestart(t *testing.T) {
	dir := t.TempDir()
	first, err := start(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	old, err := first.client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("a"), metav1.CreateOptions{})
	if err == nil {
		_, err = first.client.CoreV1().ConfigMaps("default").Update(t.Context(), configMap("a", "k", "v"), metav1.UpdateOptions{})
	}
	first.stop()
	if err != nil {
		t.Fatal(err)
	}
	second, err := start(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w, err := second.client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: old.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	event := <-w.ResultChan()
	if status, ok := event.Object.(*metav1.Status); !ok || event.Type != watch.Error || status.Code != 410 || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("event %s %v, want ERROR with 410 Expired", event.Type, event.Object)
	}
}

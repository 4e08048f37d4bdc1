package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

func newEvent(ns, name, note string) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, EventTime: metav1.NewMicroTime(time.Now()),
		ReportingController: "test/new", ReportingInstance: "test-1", Action: "Tested", Reason: "Test", Type: "Normal", Note: note,
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: ns, Name: "pod-" + name},
	}
}

func oldEvent(ns, name, message string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Message: message, Reason: "Test", Type: "Normal", Count: 3,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "pod-" + name}, Source: corev1.EventSource{Component: "test"},
	}
}

// TestTwoVersionsOfOneStore writes events in either of their groups and finds them in the other.
func TestTwoVersionsOfOneStore(t *testing.T) {
	for _, mediaType := range []string{mediaJSON, mediaProtobuf} {
		t.Run(mediaType, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ns := namespace(t)
			client := withContentType(t, mediaType)
			newer, older := client.EventsV1().Events(ns), client.CoreV1().Events(ns)
			newWatch, err := newer.Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.name!=pod-other"})
			if err != nil {
				t.Fatal(err)
			}
			defer newWatch.Stop()
			oldWatch, err := older.Watch(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name!=pod-other"})
			if err != nil {
				t.Fatal(err)
			}
			defer oldWatch.Stop()
			created, err := newer.Create(ctx, newEvent(ns, "new", "by the new group"), metav1.CreateOptions{})
			if err != nil || created.Note != "by the new group" || created.UID == "" {
				t.Fatalf("create by the new group: %v, %+v", err, created)
			}
			if _, err := older.Create(ctx, oldEvent(ns, "old", "by the old group"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			got, err := older.Get(ctx, "new", metav1.GetOptions{})
			if err != nil || got.Message != "by the new group" || got.InvolvedObject.Name != "pod-new" || got.ReportingController != "test/new" || got.UID != created.UID {
				t.Errorf("written by the new group, read by the old one: %v, %+v", err, got)
			}
			shown, err := newer.Get(ctx, "old", metav1.GetOptions{})
			if err != nil || shown.Note != "by the old group" || shown.DeprecatedCount != 3 || shown.DeprecatedSource.Component != "test" {
				t.Errorf("written by the old group, read by the new one: %v, %+v", err, shown)
			}
			for _, name := range []string{"new", "old"} {
				wantEvent(t, newWatch, watch.Added, name)
				wantEvent(t, oldWatch, watch.Added, name)
			}
			list, err := newer.List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=pod-old,reason=Test"})
			if err != nil || len(list.Items) != 1 || list.Items[0].Note != "by the old group" {
				t.Errorf("listed by the new group: %v, %+v", err, list)
			}
			olds, err := older.List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=pod-new"})
			if err != nil || len(olds.Items) != 1 || olds.Items[0].Message != "by the new group" {
				t.Errorf("listed by the old group: %v, %+v", err, olds)
			}
			for field, list := range map[string]func(metav1.ListOptions) error{
				"involvedObject.name": func(o metav1.ListOptions) error { _, err := newer.List(ctx, o); return err },
				"regarding.name":      func(o metav1.ListOptions) error { _, err := older.List(ctx, o); return err },
			} {
				if err := list(metav1.ListOptions{FieldSelector: field + "=x"}); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "field label not supported: "+field) {
					t.Errorf("a field of the other group: %v", err)
				}
			}
			patch := `{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`
			for _, kind := range []types.PatchType{types.StrategicMergePatchType, types.MergePatchType} {
				if patched, err := newer.Patch(ctx, "new", kind, []byte(patch), metav1.PatchOptions{}); err != nil || patched.Series == nil || patched.Series.Count != 2 {
					t.Errorf("%s by the new group: %v, %+v", kind, err, patched)
				}
				patch = strings.Replace(patch, ":2,", ":2 ,", 1)
			}
			wantEvent(t, oldWatch, watch.Modified, "new")
			if patched, err := older.Patch(ctx, "new", types.StrategicMergePatchType, []byte(`{"message":"changed"}`), metav1.PatchOptions{}); err != nil || patched.Message != "changed" || patched.Series.Count != 2 {
				t.Errorf("patch by the old group: %v, %+v", err, patched)
			}
			if err := newer.Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			wantEvent(t, oldWatch, watch.Deleted, "old")
			if err := older.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
			wantEvent(t, newWatch, watch.Deleted, "new")
			if _, err := newer.Get(ctx, "new", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("deleted by the old group: %v", err)
			}
		})
	}
}

// TestVersionsValidate: the new group requires fields that the old one does not.
func TestVersionsValidate(t *testing.T) {
	ns := namespace(t)
	newer, older := shared.client.EventsV1().Events(ns), shared.client.CoreV1().Events(ns)
	incomplete := newEvent(ns, "incomplete", "")
	incomplete.ReportingController, incomplete.Action = "", ""
	_, err := newer.Create(t.Context(), incomplete, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "reportingController") || !strings.Contains(err.Error(), "action") {
		t.Errorf("an incomplete event by the new group: %v", err)
	}
	if _, err := older.Create(t.Context(), oldEvent(ns, "fine", "x"), metav1.CreateOptions{}); err != nil {
		t.Errorf("the same by the old group: %v", err)
	}
	event, err := newer.Create(t.Context(), newEvent(ns, "new", "first"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	event.Note = "second"
	if _, err := newer.Update(t.Context(), event, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "field is immutable") {
		t.Errorf("another note by the new group: %v", err)
	}
	event.ResourceVersion, event.Note = "1", "first"
	if _, err := newer.Update(t.Context(), event, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old state by the new group: %v", err)
	}
}

// TestVersionsAreDescribed: discovery, tables and documents know each group.
func TestVersionsAreDescribed(t *testing.T) {
	ns := namespace(t)
	if _, err := shared.client.CoreV1().Events(ns).Create(t.Context(), oldEvent(ns, "old", "printed"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, gv := range []string{"v1", "events.k8s.io/v1"} {
		list, err := shared.client.Discovery().ServerResourcesForGroupVersion(gv)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool {
			return r.Name == "events" && r.Kind == "Event" && r.Namespaced && slices.Equal(r.ShortNames, []string{"ev"})
		}) {
			t.Errorf("%s has no events: %+v", gv, list.APIResources)
		}
		path := "/apis/" + gv
		if gv == "v1" {
			path = "/api/v1"
		}
		_, table := shared.raw(t, shared.config, "GET", fmt.Sprintf("%s/namespaces/%s/events?includeObject=Object", path, ns),
			http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io"}}, "")
		for _, want := range []string{`"name":"Last Seen"`, "printed", `"apiVersion":"` + gv + `"`} {
			if !strings.Contains(string(table), want) {
				t.Errorf("the table of %s has no %s: %s", gv, want, table)
			}
		}
		if _, document := shared.raw(t, shared.config, "GET", "/openapi/v3"+path, nil, ""); !strings.Contains(string(document), path+"/namespaces/{namespace}/events/{name}") {
			t.Errorf("%s is not described", gv)
		}
	}
}

// TestEventBroadcaster has client-go's recorder of the new group write, and count repetitions by patches.
func TestEventBroadcaster(t *testing.T) {
	ns := namespace(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "pod", UID: "u"}}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: shared.client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	recorded, err := shared.client.CoreV1().Events(ns).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer recorded.Stop()
	recorder := broadcaster.NewRecorder(scheme.Scheme, "test/recorder")
	for range 2 {
		recorder.Eventf(pod, nil, corev1.EventTypeNormal, "Recorded", "Recording", "a note")
	}
	for timeout := time.After(time.Minute); ; {
		select {
		case e := <-recorded.ResultChan():
			event, ok := e.Object.(*corev1.Event)
			if ok && event.Message == "a note" && event.InvolvedObject.Name == "pod" && event.Series != nil && event.Series.Count == 2 {
				return
			}
		case <-timeout:
			t.Fatal("no event that was recorded twice")
		}
	}
}

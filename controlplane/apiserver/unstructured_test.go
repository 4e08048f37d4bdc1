package apiserver

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/kube-openapi/pkg/validation/spec"
	explainv2 "k8s.io/kubectl/pkg/explain/v2"

	"github.com/skep-io/skep/controlplane/controller/gc"
	namespaces "github.com/skep-io/skep/controlplane/controller/namespace"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// widgets is a kind of objects without a Go type, in a group.
func widgets(t *testing.T, group string) *resource.Kind {
	t.Helper()
	colour := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}, Description: "The colour of the widget."}}
	inner := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{"colour": colour}}}
	k, err := resource.NewUnstructured(resource.Unstructured{
		GVK: schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Widget"}, Resource: "widgets", Singular: "widget", ShortNames: []string{"wd"},
		Namespaced: true, Status: true,
		Schema: &spec.Schema{SchemaProps: spec.SchemaProps{
			Type: []string{"object"}, Description: "Widget is a thing.", Properties: map[string]spec.Schema{"spec": inner, "status": inner},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func widget(k *resource.Kind, name, colour string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.GVK.GroupVersion().String(), "kind": "Widget", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"colour": colour, "size": int64(7)},
	}}
}

func colourOf(obj *unstructured.Unstructured, field string) string {
	colour, _, _ := unstructured.NestedString(obj.Object, field, "colour")
	return colour
}

// serveWidgets serves the kind until the test ends.
func serveWidgets(t *testing.T, group string) (*resource.Kind, dynamic.NamespaceableResourceInterface) {
	t.Helper()
	k := widgets(t, group)
	if err := shared.registry.Serve(k); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.registry.Withdraw(k) })
	client, err := dynamic.NewForConfig(shared.config)
	if err != nil {
		t.Fatal(err)
	}
	return k, client.Resource(k.GroupVersionResource())
}

// TestUnstructuredKind uses every operation on objects of no Go type, while the server runs.
func TestUnstructuredKind(t *testing.T) {
	ctx := t.Context()
	k, all := serveWidgets(t, "example.com")
	ns := namespace(t)
	client := all.Namespace(ns)
	events, err := client.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	red := widget(k, "a", "red")
	red.Object["status"] = map[string]any{"colour": "forged"}
	created, err := client.Create(ctx, red, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.GetUID() == "" || created.GetGeneration() != 1 || colourOf(created, "spec") != "red" || created.Object["status"] != nil {
		t.Errorf("created %v", created.Object)
	}
	wantEvent(t, events, watch.Added, "a")
	if _, err := client.Create(ctx, widget(k, "a", "red"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	created.Object["spec"].(map[string]any)["colour"] = "green"
	updated, err := client.Update(ctx, created, metav1.UpdateOptions{})
	if err != nil || updated.GetGeneration() != 2 || colourOf(updated, "spec") != "green" {
		t.Errorf("update: %v, %v", err, updated)
	}
	if _, err := client.Update(ctx, created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old state: %v", err)
	}
	for kind, patch := range map[types.PatchType]string{
		types.MergePatchType: `{"spec":{"colour":"blue"},"status":{"colour":"forged"}}`,
		types.JSONPatchType:  `[{"op":"replace","path":"/spec/colour","value":"blue"},{"op":"add","path":"/spec/n","value":3}]`,
	} {
		if patched, err := client.Patch(ctx, "a", kind, []byte(patch), metav1.PatchOptions{}); err != nil || colourOf(patched, "spec") != "blue" || patched.Object["status"] != nil {
			t.Errorf("%s: %v, %v", kind, err, patched)
		}
	}
	_, err = client.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) || !strings.Contains(err.Error(), "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json") {
		t.Errorf("strategic merge patch: %v", err)
	}
	status, err := client.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"colour":"forged"},"status":{"colour":"grey"}}`), metav1.PatchOptions{}, "status")
	if err != nil || colourOf(status, "status") != "grey" || colourOf(status, "spec") != "blue" {
		t.Errorf("status: %v, %v", err, status)
	}
	if before, err := client.Get(ctx, "a", metav1.GetOptions{}); err != nil || before.GetGeneration() != status.GetGeneration() || before.GetGeneration() < 3 {
		t.Errorf("generation %d, %v: a change of the spec raises it, one of the status does not", before.GetGeneration(), err)
	}
	if _, err := client.Create(ctx, widget(k, "b", "red"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := client.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=b"})
	if err != nil || len(list.Items) != 1 || list.GetKind() != "WidgetList" || list.Items[0].GetKind() != "Widget" {
		t.Errorf("list: %v, %v", err, list)
	}
	partial, err := metadata.NewForConfigOrDie(shared.config).Resource(k.GroupVersionResource()).Namespace(ns).List(ctx, metav1.ListOptions{})
	if err != nil || len(partial.Items) != 2 || partial.Items[0].UID != created.GetUID() {
		t.Errorf("list of metadata: %v, %v", err, partial)
	}
	if err := client.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	wantEvent(t, events, watch.Deleted, "a")
	if err := client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	wantEvent(t, events, watch.Deleted, "b")
}

// TestUnstructuredFormats: objects of no Go type are accepted only as JSON and YAML.
func TestUnstructuredFormats(t *testing.T) {
	k, all := serveWidgets(t, "example.com")
	ns := namespace(t)
	base := "/apis/example.com/v1/namespaces/" + ns + "/widgets"
	if _, err := all.Namespace(ns).Create(t.Context(), widget(k, "a", "red"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for _, c := range []struct {
		method, path, contentType, accept, body string
		code                                    int
		want                                    string
	}{
		{"GET", base + "/a", "", mediaProtobuf + "," + mediaJSON, "", 200, `"colour":"red"`},
		{"GET", base, "", mediaProtobuf, "", 406, "only the following media types are accepted: application/json, application/yaml"},
		{"GET", base, "", mediaYAML, "", 200, "colour: red"},
		{"GET", base + "/a?pretty=true", "", "", "", 200, `"colour": "red"`},
		{"GET", base, "", asTable, "", 200, `"name":"Age"`},
		{"POST", base, mediaProtobuf, "", "k8s\x00", 415, "application/json, application/yaml"},
		{"POST", base, mediaYAML, "", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: written, unknown: 1}\nspec: {colour: c}\n", 201, `"name":"written"`},
		{"POST", base, mediaJSON, "", `{"apiVersion":"example.com/v1","kind":"Gadget","metadata":{"name":"x"}}`, 422, "must be Widget"},
		{"POST", base, mediaJSON, "", `{"apiVersion":"example.com/v2","kind":"Widget","metadata":{"name":"x"}}`, 400, "does not match the expected API version"},
		{"POST", base, mediaJSON, "", `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x","labels":{"a":1}}}`, 422, "metadata"},
		{"POST", base, mediaJSON, "", `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"Not A Name"}}`, 422, "metadata.name"},
		{"POST", base + "?fieldValidation=Strict", mediaJSON, "", `{"apiVersion":"example.com/v1","kind":"Widget","kind":"Widget","metadata":{"name":"x"}}`, 400, "duplicate field"},
	} {
		header := http.Header{}
		if c.contentType != "" {
			header.Set("Content-Type", c.contentType)
		}
		if c.accept != "" {
			header.Set("Accept", c.accept)
		}
		response, body := shared.raw(t, shared.config, c.method, c.path, header, c.body)
		if response.StatusCode != c.code || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s (%s, %s): %d %s, want %d %s", c.method, c.path, c.contentType, c.accept, response.StatusCode, body, c.code, c.want)
		}
	}
	if got, err := all.Namespace(ns).Get(t.Context(), "written", metav1.GetOptions{}); err != nil || got.Object["metadata"].(map[string]any)["unknown"] != nil {
		t.Errorf("metadata that nobody knows is stored: %v, %v", err, got)
	}
}

// TestUnstructuredKindIsDescribed: it is discovered and explained, until it is withdrawn.
func TestUnstructuredKindIsDescribed(t *testing.T) {
	k, all := serveWidgets(t, "example.com")
	list, err := shared.client.Discovery().ServerResourcesForGroupVersion("example.com/v1")
	if err != nil || !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "widgets" && r.Kind == "Widget" }) {
		t.Errorf("discovered: %v, %v", err, list)
	}
	var out bytes.Buffer
	if err := explainv2.PrintModelDescription([]string{"spec"}, &out, shared.client.Discovery().OpenAPIV3(), k.GroupVersionResource(), false, 0, "plaintext"); err != nil {
		t.Errorf("explain: %v", err)
	} else if !regexp.MustCompile(`(?s)KIND:\s+Widget.*colour\s+<string>\s+The colour of the widget\.`).Match(out.Bytes()) {
		t.Errorf("explained as\n%s", out.String())
	}
	if _, document := shared.raw(t, shared.config, "GET", "/openapi/v2", nil, ""); !strings.Contains(string(document), `"com.example.v1.Widget"`) {
		t.Error("the v2 document does not have it")
	}
	ns := namespace(t)
	if _, err := all.Namespace(ns).Create(t.Context(), widget(k, "kept", "red"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	shared.registry.Withdraw(k)
	if _, err := shared.client.Discovery().ServerResourcesForGroupVersion("example.com/v1"); !apierrors.IsNotFound(err) {
		t.Errorf("discovered after it was withdrawn: %v", err)
	}
	if _, err := all.Namespace(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("listed after it was withdrawn: %v", err)
	}
	if err := shared.registry.Serve(k); err != nil {
		t.Fatal(err)
	}
	if kept, err := all.Namespace(ns).Get(t.Context(), "kept", metav1.GetOptions{}); err != nil || colourOf(kept, "spec") != "red" {
		t.Errorf("an object of a kind that was away: %v, %v", err, kept)
	}
}

// TestSameNameInTwoGroups: keys have the group, so that neither kind finds the other's objects.
func TestSameNameInTwoGroups(t *testing.T) {
	one, ones := serveWidgets(t, "example.com")
	other, others := serveWidgets(t, "example.org")
	ns := namespace(t)
	if one.Key("ns", "x") != "/registry/example.com/widgets/ns/x" {
		t.Errorf("key %s", one.Key("ns", "x"))
	}
	if _, err := ones.Namespace(ns).Create(t.Context(), widget(one, "x", "red"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := others.Namespace(ns).Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object of another group: %v", err)
	}
	if _, err := others.Namespace(ns).Create(t.Context(), widget(other, "x", "green"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if got, err := ones.Namespace(ns).Get(t.Context(), "x", metav1.GetOptions{}); err != nil || colourOf(got, "spec") != "red" {
		t.Errorf("after the other was written: %v, %v", err, got)
	}
	// As kube-apiserver stores a custom resource.
	written := []byte(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"before","namespace":"` + ns + `","uid":"u"},"spec":{"colour":"old"}}` + "\n")
	if _, err := shared.registry.Store().Commit(t.Context(), nil, []storage.Op{{Key: "/registry/example.com/widgets/" + ns + "/before", Value: written}}); err != nil {
		t.Fatal(err)
	}
	if got, err := ones.Namespace(ns).Get(t.Context(), "before", metav1.GetOptions{}); err != nil || colourOf(got, "spec") != "old" || got.GetResourceVersion() == "" {
		t.Errorf("an object that was stored before: %v, %v", err, got)
	}
	if err := shared.registry.Serve(widgets(t, "example.com")); err == nil {
		t.Error("a kind can be served twice")
	}
}

// TestUnstructuredObjectsGo: they are deleted with their owner, and with their namespace.
func TestUnstructuredObjectsGo(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { _ = gc.New(shared.registry).Run(ctx) })
	loops.Go(func() { _ = namespaces.New(shared.registry).Run(ctx) })
	defer loops.Wait()
	defer stop()
	k, all := serveWidgets(t, "example.com")
	ns := namespace(t)
	client := all.Namespace(ns)
	events, err := client.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	owner, err := client.Create(ctx, widget(k, "owner", "red"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := configMap("owned")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: "owner", UID: owner.GetUID()}}
	maps, err := shared.client.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Stop()
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	child := widget(k, "child", "blue")
	child.SetOwnerReferences(owned.OwnerReferences)
	for _, obj := range []*unstructured.Unstructured{child, widget(k, "free", "red")} {
		if _, err := client.Create(ctx, obj, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, events, watch.Deleted, "child")
	wantEvent(t, maps, watch.Deleted, "owned")
	if err := shared.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, events, watch.Deleted, "free")
}

package storage_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/skep-io/skep/controlplane/storage"
)

func TestJSON(t *testing.T) {
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget", "spec": map[string]any{"n": int64(1) << 60},
		"metadata": map[string]any{"name": "x", "resourceVersion": "42"},
	}}
	before := obj.DeepCopy()
	data, err := storage.JSON.Encode(obj)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(obj, before) {
		t.Errorf("encoding changed the object to %v", obj)
	}
	if want := `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"n":1152921504606846976}}` + "\n"; string(data) != want {
		t.Errorf("stored as %s, want %s", data, want)
	}
	before.SetResourceVersion("43")
	if decoded, err := storage.JSON.Decode(data, 43); err != nil || !reflect.DeepEqual(decoded, before) {
		t.Errorf("decoded %v, %v; want %v", decoded, err, before)
	}
	for _, data := range []string{"", "k8s\x00", `{"a":1}`, "k8s:enc:aescbc:v1:key:x", `[]`} {
		if obj, err := storage.JSON.Decode([]byte(data), 1); err == nil {
			t.Errorf("%q decodes to %v", data, obj)
		}
	}
	if _, err := storage.JSON.Encode(&corev1.Pod{}); err == nil {
		t.Error("a typed object was encoded")
	}
}

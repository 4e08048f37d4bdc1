package encryption_test

import (
	"bytes"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// A kind that is added at run time is encrypted by its name in the configuration, which was opened before.
func TestKindsOfRunTimeAreEncrypted(t *testing.T) {
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	configure(t, config, "widgets.example.com", provider("aescbc", key(1)))
	r, _, _ := open(t, server.Client, config)
	if _, err := r.Create(t.Context(), kinds.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for group, encrypted := range map[string]bool{"example.com": true, "example.org": false} {
		k, err := resource.NewUnstructured(resource.Unstructured{
			GVK: schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Widget"}, Resource: "widgets", Singular: "widget", Namespaced: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Serve(k); err != nil {
			t.Fatal(err)
		}
		widget := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "default", "name": "x"}, "p": plaintext}}
		if _, err := r.Create(t.Context(), k, widget, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		stored := raw(t, server.Client, "/registry/"+group+"/widgets/default/x")
		if bytes.HasPrefix(stored, []byte("k8s:enc:aescbc:v1:key-")) != encrypted || bytes.Contains(stored, []byte(plaintext)) == encrypted {
			t.Errorf("%s: stored as %.60q, want encrypted: %t", group, stored, encrypted)
		}
		for _, revision := range []string{"", "0"} {
			if err := r.WaitForStore(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			got, err := r.Get(t.Context(), k, "default", "x", revision)
			if err != nil || got.(*unstructured.Unstructured).Object["p"] != plaintext {
				t.Errorf("%s: reads %v, %v", group, got, err)
			}
		}
	}
}

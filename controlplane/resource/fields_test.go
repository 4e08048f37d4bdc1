package resource_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// An applied pod keeps the record of who set what through its binding and its status; any other has none. Writes of loops are recorded
// under their names, and a status update gives no ownership of fields that it cannot change.
func TestRecordOfAnAppliedPod(t *testing.T) {
	r, _ := newRegistry(t)
	ctx := t.Context()
	patch := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"applied","namespace":"default"},"spec":{"containers":[{"name":"c","image":"i"}]}}`), patch); err != nil {
		t.Fatal(err)
	}
	if _, created, err := r.Apply(ctx, kinds.Pods, "", "default", "applied", patch, resource.ApplyOptions{FieldManager: "me"}); err != nil || !created {
		t.Fatalf("applied: created %t, %v", created, err)
	}
	if _, err := r.Create(ctx, kinds.Pods, pod("plain", ""), resource.CreateOptions{FieldManager: "me"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"applied", "plain"} {
		if err := kinds.Bind(identity.With(ctx, identity.Scheduler), r, []kinds.Binding{{Namespace: "default", Name: name, Node: "node1"}})[0]; err != nil {
			t.Fatal(err)
		}
		report := func(message string) resource.Object {
			obj, err := r.Modify(identity.With(ctx, identity.Controllers), kinds.Pods, "status", "default", name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
				p := current.DeepCopyObject().(*corev1.Pod)
				p.Status.Message, p.Spec.NodeName, p.OwnerReferences = message, "other", []metav1.OwnerReference{{Name: "x"}}
				return p, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return obj
		}
		first := report("hello")
		if again := report("hello"); again.GetResourceVersion() != first.GetResourceVersion() {
			t.Errorf("%s: the same report again is a write", name)
		}
		var managers []string
		for _, entry := range first.GetManagedFields() {
			managers = append(managers, entry.Manager+" "+string(entry.Operation)+" "+entry.Subresource)
			raw, err := json.Marshal(entry.FieldsV1)
			if err != nil {
				t.Fatal(err)
			}
			if entry.Subresource == "status" && string(raw) != `{"f:status":{"f:message":{}}}` {
				t.Errorf("the report owns %s", raw)
			}
		}
		want := []string{"me Apply ", "kube-controller-manager Update status"}
		if name == "plain" {
			want = nil
		}
		if !slices.Equal(managers, want) {
			t.Errorf("%s is recorded of %q, want %q", name, managers, want)
		}
	}
	other := patch.DeepCopy()
	if err := unstructured.SetNestedField(other.Object, "no", "status", "message"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Apply(ctx, kinds.Pods, "status", "default", "applied", other, resource.ApplyOptions{FieldManager: "else"}); !apierrors.IsConflict(err) {
		t.Errorf("a status that a loop reported: %v, want a conflict", err)
	}
}

// A record that is nested so deep that clients could not read a list with it is dropped, as one that cannot be decoded.
func TestRecordTooDeep(t *testing.T) {
	r, _ := newRegistry(t)
	for name, fields := range map[string]string{
		"deep":  strings.Repeat(`{"f:a":`, 9000) + "{}" + strings.Repeat("}", 9000),
		"wrong": `{"f:a":`,
		"fine":  `{"f:metadata":{"f:labels":{"f:{{{\"":{}}}}`,
	} {
		p := pod(name, "")
		p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)}}
		created, err := r.Create(t.Context(), kinds.Pods, p, resource.CreateOptions{FieldManager: "me"})
		if err != nil {
			t.Fatal(err)
		}
		if name == "fine" && len(created.GetManagedFields()) == 0 {
			t.Error("a record that is one is dropped")
		}
		for _, entry := range created.GetManagedFields() {
			if name != "fine" {
				t.Errorf("%s: the record of %s is kept", name, entry.Manager)
			}
		}
	}
}

package resource_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newRegistry is a registry on an etcd of its own, with the namespace default.
func newRegistry(t *testing.T) (*resource.Registry, *storage.Etcd) {
	t.Helper()
	server, err := etcd.Start(testContext(t), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	store := storage.NewEtcd(server.Client)
	r := runRegistry(t, store)
	must(t)(r.Create(testContext(t), kinds.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, resource.CreateOptions{}))
	return r, store
}

// runRegistry is another registry on the same store, as another skepd has it.
func runRegistry(t *testing.T, store storage.Interface) *resource.Registry {
	t.Helper()
	r := kinds.NewRegistry(store, kinds.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("registry ended with %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	if err := r.WaitForSync(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return r
}

func must(t *testing.T) func(resource.Object, error) resource.Object {
	t.Helper()
	return func(obj resource.Object, err error) resource.Object {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{}}
	for i := 0; i+1 < len(data); i += 2 {
		m.Data[data[i]] = data[i+1]
	}
	return m
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "example/i"}}},
	}
}

func create(t *testing.T, r *resource.Registry, k *resource.Kind, obj resource.Object) resource.Object {
	t.Helper()
	return must(t)(r.Create(testContext(t), k, obj, resource.CreateOptions{}))
}

func get(t *testing.T, r *resource.Registry, k *resource.Kind, obj resource.Object) resource.Object {
	t.Helper()
	return must(t)(r.Get(testContext(t), k, obj.GetNamespace(), obj.GetName(), ""))
}

// wantStatus checks an error's reason, and that its message contains what is said.
func wantStatus(t *testing.T, what string, err error, reason metav1.StatusReason, code int32, contains string) {
	t.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		t.Errorf("%s: %v, want a Status of %s", what, err, reason)
		return
	}
	if s := status.Status(); s.Reason != reason || s.Code != code || !strings.Contains(s.Message, contains) {
		t.Errorf("%s: %d %s %q, want %d %s with %q", what, s.Code, s.Reason, s.Message, code, reason, contains)
	}
}

func TestCreateFillsIn(t *testing.T) {
	r, store := newRegistry(t)
	p := pod("web", "")
	p.UID, p.Generation, p.SelfLink = "mine", 7, "/x"
	p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "me", Operation: "Update", APIVersion: "v1"}}
	created := create(t, r, kinds.Pods, p).(*corev1.Pod)
	if created.UID == "mine" || created.UID == "" || created.Generation != 1 || created.SelfLink != "" || created.DeletionTimestamp != nil || created.ManagedFields != nil {
		t.Errorf("created with metadata %+v", created.ObjectMeta)
	}
	if age := time.Since(created.CreationTimestamp.Time); age < 0 || age > 10*time.Second || created.CreationTimestamp.Nanosecond() != 0 {
		t.Errorf("creation timestamp %s", created.CreationTimestamp)
	}
	if created.Kind != "Pod" || created.Status.Phase != corev1.PodPending || created.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("created %s with phase %q and restart policy %q", created.Kind, created.Status.Phase, created.Spec.RestartPolicy)
	}
	kv, err := store.Get(testContext(t), "/registry/pods/default/web")
	if err != nil || created.ResourceVersion != fmt.Sprint(kv.ModRevision) {
		t.Errorf("resource version %s, and the key changed at %d (%v)", created.ResourceVersion, kv.ModRevision, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	r, _ := newRegistry(t)
	create(t, r, kinds.ConfigMaps, configMap("taken"))
	withVersion := configMap("new")
	withVersion.ResourceVersion = "5"
	elsewhere, nowhere := configMap("new"), configMap("new")
	elsewhere.Namespace, nowhere.Namespace = "missing", ""
	for _, tc := range []struct {
		what     string
		obj      *corev1.ConfigMap
		reason   metav1.StatusReason
		code     int32
		contains string
	}{
		{"a name that is taken", configMap("taken"), metav1.StatusReasonAlreadyExists, 409, `configmaps "taken" already exists`},
		{"a resource version", withVersion, "", 500, "resourceVersion should not be set on objects to be created"},
		{"a namespace that is not there", elsewhere, metav1.StatusReasonNotFound, 404, `namespaces "missing" not found`},
		{"no namespace", nowhere, metav1.StatusReasonBadRequest, 400, "namespace"},
		{"no name", configMap(""), metav1.StatusReasonInvalid, 422, "metadata.name: Required value: name or generateName is required"},
		{"a bad name", configMap("No Spaces"), metav1.StatusReasonInvalid, 422, `metadata.name: Invalid value: "No Spaces"`},
	} {
		_, err := r.Create(testContext(t), kinds.ConfigMaps, tc.obj, resource.CreateOptions{})
		wantStatus(t, tc.what, err, tc.reason, tc.code, tc.contains)
	}
}

func TestGenerateName(t *testing.T) {
	r, _ := newRegistry(t)
	m := configMap("")
	m.GenerateName = strings.Repeat("x", 70)
	created := create(t, r, kinds.ConfigMaps, m)
	if name := created.GetName(); len(name) != 63 || !strings.HasPrefix(name, strings.Repeat("x", 58)) {
		t.Errorf("generated %q, want 58 of the given characters and 5 more", name)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	r, store := newRegistry(t)
	ctx := testContext(t)
	existing := create(t, r, kinds.ConfigMaps, configMap("there", "a", "1"))
	before, err := store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	must(t)(r.Create(ctx, kinds.ConfigMaps, configMap("new"), resource.CreateOptions{DryRun: true}))
	_, err = r.Create(ctx, kinds.ConfigMaps, configMap("there"), resource.CreateOptions{DryRun: true})
	wantStatus(t, "dry run of a create that cannot be", err, metav1.StatusReasonAlreadyExists, 409, "")
	updated := must(t)(r.Update(ctx, kinds.ConfigMaps, "", configMap("there", "a", "2"), resource.UpdateOptions{DryRun: true}))
	if updated.(*corev1.ConfigMap).Data["a"] != "2" {
		t.Errorf("dry run of an update shows %+v", updated)
	}
	if _, gone, err := r.Delete(ctx, kinds.ConfigMaps, "default", "there", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil || !gone {
		t.Errorf("dry run of a delete: gone %t, %v", gone, err)
	}
	if after, err := store.Revision(ctx); err != nil || after != before {
		t.Errorf("dry runs moved the store from %d to %d (%v)", before, after, err)
	}
	if now := get(t, r, kinds.ConfigMaps, existing); now.GetResourceVersion() != existing.GetResourceVersion() {
		t.Errorf("object is at %s, was at %s", now.GetResourceVersion(), existing.GetResourceVersion())
	}
}

func TestExpiringKind(t *testing.T) {
	r, _ := newRegistry(t)
	if kinds.Events.TTL != time.Hour {
		t.Errorf("events live for %s, want an hour", kinds.Events.TTL)
	}
	create(t, r, kinds.Events, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "web.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"},
	})
}

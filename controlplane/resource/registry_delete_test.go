package resource_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func del(t *testing.T, r *resource.Registry, k *resource.Kind, ns, name string, o *metav1.DeleteOptions) (resource.Object, bool) {
	t.Helper()
	obj, gone, err := r.Delete(testContext(t), k, ns, name, o)
	if err != nil {
		t.Fatal(err)
	}
	return obj, gone
}

func seconds(n int64) *metav1.DeleteOptions { return &metav1.DeleteOptions{GracePeriodSeconds: &n} }

func TestDeletePodGracefully(t *testing.T) {
	r, _ := newRegistry(t)
	created := create(t, r, kinds.Pods, pod("web", "node1"))
	steps := []struct {
		what      string
		options   *metav1.DeleteOptions
		wantGone  bool
		wantGrace int64
	}{
		{"with the pod's own grace period", nil, false, 30},
		{"again", nil, false, 30},
		{"with a longer one", seconds(60), false, 30},
		{"with a shorter one", seconds(10), false, 10},
		{"with none", seconds(0), true, 10},
	}
	var first *corev1.Pod
	for _, step := range steps {
		obj, gone := del(t, r, kinds.Pods, "default", "web", step.options)
		p := obj.(*corev1.Pod)
		if gone != step.wantGone {
			t.Fatalf("delete %s: gone %t, want %t", step.what, gone, step.wantGone)
		}
		if gone {
			break
		}
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != step.wantGrace || p.Generation != 2 {
			t.Errorf("delete %s: at %v, grace %d, generation %d; want a time, %d and 2", step.what, p.DeletionTimestamp, *p.DeletionGracePeriodSeconds, p.Generation, step.wantGrace)
		}
		if first == nil {
			first = p
		} else if early := first.DeletionTimestamp.Sub(p.DeletionTimestamp.Time).Seconds(); early != float64(30-step.wantGrace) {
			t.Errorf("delete %s: due %g s before the first time, want %d", step.what, early, 30-step.wantGrace)
		}
	}
	_, err := r.Get(testContext(t), kinds.Pods, "default", "web", "")
	wantStatus(t, "get after the delete", err, metav1.StatusReasonNotFound, 404, `pods "web" not found`)
	if created.GetDeletionTimestamp() != nil {
		t.Error("the delete changed a shared object")
	}
}

func TestDeleteAtOnce(t *testing.T) {
	r, _ := newRegistry(t)
	create(t, r, kinds.ConfigMaps, configMap("m"))
	create(t, r, kinds.Pods, pod("unbound", ""))
	finished := create(t, r, kinds.Pods, pod("finished", "node1")).DeepCopyObject().(*corev1.Pod)
	finished.Status.Phase = corev1.PodSucceeded
	must(t)(r.Update(testContext(t), kinds.Pods, "status", finished, resource.UpdateOptions{}))
	create(t, r, kinds.Pods, pod("forced", "node1"))
	for _, tc := range []struct {
		k       *resource.Kind
		name    string
		options *metav1.DeleteOptions
	}{{kinds.ConfigMaps, "m", nil}, {kinds.Pods, "unbound", nil}, {kinds.Pods, "finished", nil}, {kinds.Pods, "forced", seconds(0)}} {
		if _, gone := del(t, r, tc.k, "default", tc.name, tc.options); !gone {
			t.Errorf("%s is not gone", tc.name)
		}
	}
}

func TestFinalizersKeepAnObject(t *testing.T) {
	r, _ := newRegistry(t)
	ctx := testContext(t)
	m := configMap("m")
	m.Finalizers = []string{"example.com/wait"}
	create(t, r, kinds.ConfigMaps, m)
	obj, gone := del(t, r, kinds.ConfigMaps, "default", "m", nil)
	if gone || obj.GetDeletionTimestamp() == nil || *obj.GetDeletionGracePeriodSeconds() != 0 {
		t.Fatalf("gone %t, metadata %+v; want it marked", gone, obj)
	}
	again, _ := del(t, r, kinds.ConfigMaps, "default", "m", nil)
	if again.GetResourceVersion() != obj.GetResourceVersion() {
		t.Error("a second delete changed the object")
	}
	_, err := r.Create(ctx, kinds.ConfigMaps, configMap("m"), resource.CreateOptions{})
	wantStatus(t, "create while it goes", err, metav1.StatusReasonAlreadyExists, 409, `object is being deleted: configmaps "m" already exists`)
	add := obj.DeepCopyObject().(*corev1.ConfigMap)
	add.Finalizers = append(add.Finalizers, "example.com/more")
	_, err = r.Update(ctx, kinds.ConfigMaps, "", add, resource.UpdateOptions{})
	wantStatus(t, "new finalizer while it goes", err, metav1.StatusReasonInvalid, 422, "no new finalizers can be added if the object is being deleted")
	last := obj.DeepCopyObject().(*corev1.ConfigMap)
	last.Finalizers = nil
	must(t)(r.Update(ctx, kinds.ConfigMaps, "", last, resource.UpdateOptions{}))
	if _, err := r.Get(ctx, kinds.ConfigMaps, "default", "m", ""); !apierrors.IsNotFound(err) {
		t.Errorf("after its last finalizer: %v, want that it is gone", err)
	}
}

func TestPropagation(t *testing.T) {
	r, _ := newRegistry(t)
	orphan, foreground, background := metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground, metav1.DeletePropagationBackground
	yes, no := true, false
	replicas := int32(0)
	for i, tc := range []struct {
		what    string
		k       *resource.Kind
		options metav1.DeleteOptions
		want    []string
	}{
		{"background", kinds.ReplicationControllers, metav1.DeleteOptions{PropagationPolicy: &background}, nil},
		{"orphan", kinds.ReplicationControllers, metav1.DeleteOptions{PropagationPolicy: &orphan}, []string{"orphan"}},
		{"foreground", kinds.ReplicationControllers, metav1.DeleteOptions{PropagationPolicy: &foreground}, []string{"foregroundDeletion"}},
		{"orphanDependents", kinds.ReplicationControllers, metav1.DeleteOptions{OrphanDependents: &yes}, []string{"orphan"}},
		{"not orphanDependents", kinds.ReplicationControllers, metav1.DeleteOptions{OrphanDependents: &no}, nil},
		{"controller without policy", kinds.ReplicationControllers, metav1.DeleteOptions{}, []string{"orphan"}},
		{"config map without policy", kinds.ConfigMaps, metav1.DeleteOptions{}, nil},
	} {
		name := fmt.Sprintf("o%d", i)
		var obj resource.Object = configMap(name)
		if tc.k == kinds.ReplicationControllers {
			obj = &corev1.ReplicationController{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: corev1.ReplicationControllerSpec{
					Replicas: &replicas, Selector: map[string]string{"app": "a"},
					Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}, Spec: pod("x", "").Spec},
				},
			}
		}
		create(t, r, tc.k, obj)
		last, gone := del(t, r, tc.k, "default", name, &tc.options)
		if gone != (tc.want == nil) || !slices.Equal(last.GetFinalizers(), tc.want) {
			t.Errorf("%s: gone %t with finalizers %v, want %v", tc.what, gone, last.GetFinalizers(), tc.want)
		}
	}
	_, _, err := r.Delete(testContext(t), kinds.ConfigMaps, "default", "x", &metav1.DeleteOptions{PropagationPolicy: &orphan, OrphanDependents: &yes})
	wantStatus(t, "both ways to say it", err, metav1.StatusReasonInvalid, 422, "propagationPolicy")
}

func TestDeletePreconditions(t *testing.T) {
	r, _ := newRegistry(t)
	created := create(t, r, kinds.ConfigMaps, configMap("m"))
	uid, version := types.UID("other"), "1"
	_, _, err := r.Delete(testContext(t), kinds.ConfigMaps, "default", "m", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	wantStatus(t, "another UID", err, metav1.StatusReasonConflict, 409, "Precondition failed: UID in precondition: other")
	_, _, err = r.Delete(testContext(t), kinds.ConfigMaps, "default", "m", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	wantStatus(t, "another version", err, metav1.StatusReasonConflict, 409, "Precondition failed: ResourceVersion in precondition: 1")
	uid, version = created.GetUID(), created.GetResourceVersion()
	if _, gone := del(t, r, kinds.ConfigMaps, "default", "m", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}); !gone {
		t.Error("the right preconditions kept it")
	}
}

func TestNamespaceGoesWhenItsFinalizerDoes(t *testing.T) {
	r, store := newRegistry(t)
	ctx := testContext(t)
	create(t, r, kinds.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	obj, gone := del(t, r, kinds.Namespaces, "", "team", nil)
	ns := obj.(*corev1.Namespace)
	if gone || ns.DeletionTimestamp == nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("gone %t, phase %s, deleted at %v", gone, ns.Status.Phase, ns.DeletionTimestamp)
	}
	revision, err := store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cache(kinds.Namespaces).WaitUntil(ctx, revision); err != nil {
		t.Fatal(err)
	}
	m := configMap("m")
	m.Namespace = "team"
	_, err = r.Create(ctx, kinds.ConfigMaps, m, resource.CreateOptions{})
	wantStatus(t, "create in it", err, metav1.StatusReasonForbidden, 403,
		`configmaps "m" is forbidden: unable to create new content in namespace team because it is being terminated`)
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("%v has no cause %s", err, corev1.NamespaceTerminatingCause)
	}
	must(t)(r.Modify(ctx, kinds.Namespaces, "finalize", "", "team", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		ns := current.DeepCopyObject().(*corev1.Namespace)
		ns.Spec.Finalizers = nil
		return ns, nil
	}))
	if _, err := r.Get(ctx, kinds.Namespaces, "", "team", ""); !apierrors.IsNotFound(err) {
		t.Errorf("after finalize: %v, want that it is gone", err)
	}
	_, _, err = r.Delete(ctx, kinds.Namespaces, "", "default", nil)
	wantStatus(t, "delete of default", err, metav1.StatusReasonForbidden, 403, `namespaces "default" is forbidden: this namespace may not be deleted`)
}

func TestDeleteCollection(t *testing.T) {
	r, _ := newRegistry(t)
	ctx := testContext(t)
	for i := range 40 {
		m := configMap(fmt.Sprintf("m%d", i))
		m.Labels = map[string]string{"half": fmt.Sprint(i % 2)}
		create(t, r, kinds.ConfigMaps, m)
	}
	list, err := r.DeleteCollection(ctx, kinds.ConfigMaps, "default", nil, resource.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"half": "0"})})
	if err != nil || len(list.Objects) != 20 {
		t.Fatalf("deleted %+v, %v; want 20", list, err)
	}
	rest, err := r.List(ctx, kinds.ConfigMaps, "default", resource.ListOptions{})
	if err != nil || len(rest.Objects) != 20 {
		t.Fatalf("left %+v, %v; want 20", rest, err)
	}
	for _, o := range rest.Objects {
		if o.Value().GetLabels()["half"] != "1" {
			t.Errorf("%s is left", o.Key)
		}
	}
}

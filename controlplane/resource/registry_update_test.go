package resource_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func TestUpdate(t *testing.T) {
	r, store := newRegistry(t)
	ctx := testContext(t)
	first := create(t, r, kinds.ConfigMaps, configMap("m", "a", "1")).(*corev1.ConfigMap)

	second := first.DeepCopy()
	second.Data["a"] = "2"
	updated := must(t)(r.Update(ctx, kinds.ConfigMaps, "", second, resource.UpdateOptions{})).(*corev1.ConfigMap)
	if updated.ResourceVersion == first.ResourceVersion || updated.UID != first.UID {
		t.Errorf("updated to %+v", updated.ObjectMeta)
	}

	late := first.DeepCopy()
	late.Data["a"] = "3"
	_, err := r.Update(ctx, kinds.ConfigMaps, "", late, resource.UpdateOptions{})
	wantStatus(t, "update of an old state", err, metav1.StatusReasonConflict, 409,
		`Operation cannot be fulfilled on configmaps "m": the object has been modified; please apply your changes to the latest version and try again`)

	blind := must(t)(r.Update(ctx, kinds.ConfigMaps, "", configMap("m", "a", "4"), resource.UpdateOptions{})).(*corev1.ConfigMap)
	if blind.UID != first.UID || !blind.CreationTimestamp.Equal(&first.CreationTimestamp) || blind.Data["a"] != "4" {
		t.Errorf("update without a resource version made %+v", blind)
	}

	other := blind.DeepCopy()
	other.UID = "other"
	_, err = r.Update(ctx, kinds.ConfigMaps, "", other, resource.UpdateOptions{})
	wantStatus(t, "update of another object's UID", err, metav1.StatusReasonConflict, 409,
		fmt.Sprintf("Precondition failed: UID in precondition: other, UID in object meta: %s", first.UID))

	_, err = r.Update(ctx, kinds.ConfigMaps, "", configMap("none"), resource.UpdateOptions{})
	wantStatus(t, "update of nothing", err, metav1.StatusReasonNotFound, 404, `configmaps "none" not found`)

	before, err := store.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	same := must(t)(r.Update(ctx, kinds.ConfigMaps, "", blind.DeepCopy(), resource.UpdateOptions{}))
	if after, err := store.Revision(ctx); err != nil || after != before || same.GetResourceVersion() != blind.ResourceVersion {
		t.Errorf("an update that changes nothing moved the store from %d to %d and the object to %s (%v)", before, after, same.GetResourceVersion(), err)
	}
}

func TestGenerationFollowsTheSpec(t *testing.T) {
	r, _ := newRegistry(t)
	ctx := testContext(t)
	replicas := int32(1)
	rc := create(t, r, kinds.ReplicationControllers, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas, Selector: map[string]string{"app": "a"},
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}, Spec: pod("x", "").Spec},
		},
	}).(*corev1.ReplicationController)
	steps := []struct {
		what, sub string
		change    func(*corev1.ReplicationController)
		want      int64
	}{
		{"labels", "", func(rc *corev1.ReplicationController) { rc.Labels = map[string]string{"x": "y"} }, 1},
		{"replicas", "", func(rc *corev1.ReplicationController) { *rc.Spec.Replicas = 3 }, 2},
		{"generation", "", func(rc *corev1.ReplicationController) { rc.Generation = 9; rc.Labels = nil }, 2},
		{"status", "status", func(rc *corev1.ReplicationController) { rc.Status.Replicas = 1; *rc.Spec.Replicas = 8 }, 2},
	}
	if rc.Generation != 1 {
		t.Errorf("created with generation %d, want 1", rc.Generation)
	}
	for _, step := range steps {
		obj := must(t)(r.Modify(ctx, kinds.ReplicationControllers, step.sub, "default", "rc", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			changed := current.DeepCopyObject().(*corev1.ReplicationController)
			step.change(changed)
			return changed, nil
		})).(*corev1.ReplicationController)
		if obj.Generation != step.want {
			t.Errorf("after a change of %s generation is %d, want %d", step.what, obj.Generation, step.want)
		}
		if *obj.Spec.Replicas == 8 {
			t.Error("an update of the status changed the spec")
		}
	}
}

// Two registries on one store are two skepd: each one's cache lags behind the other's writes.
func TestModifyLosesNoUpdate(t *testing.T) {
	r, store := newRegistry(t)
	registries := []*resource.Registry{r, runRegistry(t, store)}
	create(t, r, kinds.ConfigMaps, configMap("counter", "n", "0"))
	const each = 50
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range each {
				_, err := registries[i%2].Modify(testContext(t), kinds.ConfigMaps, "", "default", "counter", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
					m := current.DeepCopyObject().(*corev1.ConfigMap)
					var n int
					if _, err := fmt.Sscan(m.Data["n"], &n); err != nil {
						return nil, err
					}
					m.Data["n"] = fmt.Sprint(n + 1)
					return m, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if m := get(t, r, kinds.ConfigMaps, configMap("counter")).(*corev1.ConfigMap); m.Data["n"] != fmt.Sprint(4*each) {
		t.Errorf("counted to %s, want %d", m.Data["n"], 4*each)
	}
}

func TestModify(t *testing.T) {
	r, _ := newRegistry(t)
	ctx := testContext(t)
	created := create(t, r, kinds.ConfigMaps, configMap("m", "a", "1"))
	no := errors.New("no")
	if _, err := r.Modify(ctx, kinds.ConfigMaps, "", "default", "m", resource.UpdateOptions{}, func(resource.Object) (resource.Object, error) { return nil, no }); !errors.Is(err, no) {
		t.Errorf("error of the change comes back as %v", err)
	}
	unchanged := must(t)(r.Modify(ctx, kinds.ConfigMaps, "", "default", "m", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) { return current, nil }))
	if unchanged.GetResourceVersion() != created.GetResourceVersion() {
		t.Errorf("no change moved it from %s to %s", created.GetResourceVersion(), unchanged.GetResourceVersion())
	}
	_, err := r.Modify(ctx, kinds.ConfigMaps, "", "default", "m", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		m := current.DeepCopyObject().(*corev1.ConfigMap)
		m.ResourceVersion = "1"
		return m, nil
	})
	wantStatus(t, "change that carries an old resource version", err, metav1.StatusReasonConflict, 409, "the object has been modified")
	uid := types.UID("other")
	_, err = r.Modify(ctx, kinds.ConfigMaps, "", "default", "m", resource.UpdateOptions{Preconditions: &metav1.Preconditions{UID: &uid}}, func(current resource.Object) (resource.Object, error) { return current, nil })
	wantStatus(t, "precondition", err, metav1.StatusReasonConflict, 409, "Precondition failed: UID in precondition: other")
	_, err = r.Modify(ctx, kinds.ConfigMaps, "status", "default", "m", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) { return current, nil })
	wantStatus(t, "status of a kind that has none", err, metav1.StatusReasonNotFound, 404, "")
}

func TestStatusUpdateOfAPod(t *testing.T) {
	r, _ := newRegistry(t)
	p := create(t, r, kinds.Pods, pod("web", "node1")).(*corev1.Pod)
	changed := p.DeepCopy()
	changed.Status.Phase = corev1.PodRunning
	changed.Spec.Containers[0].Image = "example/other"
	updated := must(t)(r.Update(testContext(t), kinds.Pods, "status", changed, resource.UpdateOptions{})).(*corev1.Pod)
	if updated.Status.Phase != corev1.PodRunning || updated.Spec.Containers[0].Image != "example/i" {
		t.Errorf("status update made phase %s, image %s", updated.Status.Phase, updated.Spec.Containers[0].Image)
	}
}

func TestBind(t *testing.T) {
	r, store := newRegistry(t)
	var bindings []kinds.Binding
	for i := range 300 { // more than two transactions
		p := create(t, r, kinds.Pods, pod(fmt.Sprintf("p%d", i), ""))
		bindings = append(bindings, kinds.Binding{Namespace: "default", Name: p.GetName(), UID: string(p.GetUID()), Node: "node1"})
	}
	gone := kinds.Binding{Namespace: "default", Name: "gone", Node: "node1"}
	wrong := bindings[7]
	wrong.UID = "other"
	// p5 changes where this registry's cache may not have seen it yet.
	must(t)(runRegistry(t, store).Modify(testContext(t), kinds.Pods, "", "default", "p5", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		p := current.DeepCopyObject().(*corev1.Pod)
		p.Labels = map[string]string{"changed": "yes"}
		return p, nil
	}))
	before, err := store.Revision(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	all := append([]kinds.Binding{gone, wrong}, append(bindings[:7:7], bindings[8:]...)...)
	errs := kinds.Bind(testContext(t), r, append(all, bindings[20]))
	wantStatus(t, "binding of a pod that is not there", errs[0], metav1.StatusReasonNotFound, 404, `pods "gone" not found`)
	wantStatus(t, "binding of another pod's UID", errs[1], metav1.StatusReasonConflict, 409, "Precondition failed: UID in precondition: other")
	wantStatus(t, "second binding of a pod", errs[len(errs)-1], metav1.StatusReasonConflict, 409, `pod p20 is already assigned to node "node1"`)
	for i, err := range errs[2 : len(errs)-1] {
		if err != nil {
			t.Errorf("binding %d: %v", i, err)
		}
	}
	after, err := store.Revision(testContext(t))
	if err != nil || after-before > 4 {
		t.Errorf("300 bindings took %d transactions (%v), want them shared", after-before, err)
	}
	p := get(t, r, kinds.Pods, pod("p5", "")).(*corev1.Pod)
	if p.Spec.NodeName != "node1" || p.Labels["changed"] != "yes" || p.Generation != 1 {
		t.Errorf("p5 is on %q with labels %v and generation %d", p.Spec.NodeName, p.Labels, p.Generation)
	}
	if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Type != corev1.PodScheduled || p.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("conditions %+v, want PodScheduled", p.Status.Conditions)
	}
	create(t, r, kinds.Pods, pod("leaving", ""))
	must(t)(r.Modify(testContext(t), kinds.Pods, "", "default", "leaving", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		p := current.DeepCopyObject().(*corev1.Pod)
		p.Finalizers = []string{"example.com/wait"}
		return p, nil
	}))
	if _, _, err := r.Delete(testContext(t), kinds.Pods, "default", "leaving", nil); err != nil {
		t.Fatal(err)
	}
	errs = kinds.Bind(testContext(t), r, []kinds.Binding{{Namespace: "default", Name: "leaving", Node: "node1"}})
	wantStatus(t, "binding of a pod that is being deleted", errs[0], metav1.StatusReasonConflict, 409, "pod leaving is being deleted, cannot be assigned to a host")
}

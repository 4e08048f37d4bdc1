package admission_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func podOf(class string, priority int32, policy corev1.PreemptionPolicy) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "p-"},
		Spec:       corev1.PodSpec{PriorityClassName: class, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if priority != 0 {
		pod.Spec.Priority = &priority
	}
	if policy != "" {
		pod.Spec.PreemptionPolicy = &policy
	}
	return pod
}

func createClass(t *testing.T, r *resource.Registry, name string, value int32, global bool, policy corev1.PreemptionPolicy) {
	t.Helper()
	controlplanetest.Create(t, r, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: global, PreemptionPolicy: &policy})
}

// A pod has the priority of its class and cannot choose another: agents do not evict pods of the system's classes.
func TestSystemPriorities(t *testing.T) {
	r := controlplanetest.Start(t)
	const lower, never = corev1.PreemptLowerPriority, corev1.PreemptNever
	createClass(t, r, "mine", 1000, false, never)
	test := func(name, class string, given int32, givenPolicy corev1.PreemptionPolicy, want int32, wantPolicy corev1.PreemptionPolicy, refused string) {
		t.Helper()
		created, err := r.Create(t.Context(), kinds.Pods, podOf(class, given, givenPolicy), resource.CreateOptions{})
		if refused != "" {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), refused) {
				t.Errorf("%s: %v, want that it is forbidden: %s", name, err, refused)
			}
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		spec := created.(*corev1.Pod).Spec
		if spec.Priority == nil || *spec.Priority != want || spec.PreemptionPolicy == nil || *spec.PreemptionPolicy != wantPolicy {
			t.Errorf("%s: priority %v, %v, want %d, %s", name, spec.Priority, spec.PreemptionPolicy, want, wantPolicy)
		}
	}
	const wrong = "the integer value of priority ("
	test("none", "", 0, "", 0, lower, "")
	test("none, but a priority", "", 7, "", 0, "", wrong+"7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name")
	test("none, and a priority of the system", "", 2000000000, "", 0, "", wrong)
	test("one's own", "mine", 0, "", 1000, never, "")
	test("one's own, given as well", "mine", 1000, never, 1000, never, "")
	test("another policy than the class's", "mine", 0, lower, 0, "", "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never")
	test("critical with another class", "mine", 2000001000, "", 0, "", wrong)
	test("cluster-critical", "system-cluster-critical", 0, "", 2000000000, lower, "")
	test("node-critical", "system-node-critical", 2000001000, "", 2000001000, lower, "")
	test("another than the class's", "system-node-critical", 5, "", 0, "", wrong)
	test("no such class", "yours", 0, "", 0, "", "no PriorityClass with name yours was found")

	createClass(t, r, "usual", 10, true, lower)
	test("default class", "", 0, "", 10, lower, "")
	created := controlplanetest.Create(t, r, podOf("", 0, ""))[0].(*corev1.Pod)
	if created.Spec.PriorityClassName != "usual" {
		t.Errorf("a pod of the default class has the class %q", created.Spec.PriorityClassName)
	}
	kept := controlplanetest.Modify(t, r, kinds.Pods, "", "default", created.Name, func(pod *corev1.Pod) {
		pod.Spec.Priority, pod.Spec.PreemptionPolicy = nil, nil // as of a client that does not know them
		pod.Labels = map[string]string{"a": "b"}
	})
	if kept.Spec.Priority == nil || *kept.Spec.Priority != 10 || kept.Spec.PreemptionPolicy == nil {
		t.Errorf("after an update without them: priority %v, %v", kept.Spec.Priority, kept.Spec.PreemptionPolicy)
	}
}

func TestPriorityClasses(t *testing.T) {
	r := controlplanetest.Start(t)
	createClass(t, r, "usual", 10, true, corev1.PreemptNever)
	for name, c := range map[string]struct {
		class *schedulingv1.PriorityClass
		want  string
	}{
		"second default":         {&schedulingv1.PriorityClass{Value: 5, GlobalDefault: true}, "PriorityClass usual is already marked as default. Only one default can exist"},
		"name of the system":     {&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-mine"}}, "priority class names with 'system-' prefix are reserved for system use only"},
		"priority of the system": {&schedulingv1.PriorityClass{Value: 1000000001}, "maximum allowed value of a user defined priority is 1000000000"},
	} {
		if c.class.Name == "" {
			c.class.Name = "other"
		}
		if _, err := r.Create(t.Context(), kinds.PriorityClasses, c.class, resource.CreateOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	described := controlplanetest.Modify(t, r, kinds.PriorityClasses, "", "", "usual", func(class *schedulingv1.PriorityClass) { class.Description = "usual" })
	if described.Generation != 1 {
		t.Errorf("generation %d, want 1 for good", described.Generation)
	}
	createClass(t, r, "other", 5, false, corev1.PreemptNever)
	_, err := r.Modify(t.Context(), kinds.PriorityClasses, "", "", "other", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		class := current.DeepCopyObject().(*schedulingv1.PriorityClass)
		class.GlobalDefault = true
		return class, nil
	})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a second one is made the default: %v", err)
	}
	for _, name := range []string{"system-node-critical", "system-cluster-critical"} {
		_, _, err := r.Delete(t.Context(), kinds.PriorityClasses, "", name, nil)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "this is a system priority class and cannot be deleted") {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if _, gone, err := r.Delete(t.Context(), kinds.PriorityClasses, "", "usual", nil); err != nil || !gone {
		t.Errorf("delete usual: %v", err)
	}
}

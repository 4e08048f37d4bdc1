package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/resource"
)

// Only the system's classes make a pod one that is not evicted.
func TestSystemPriorities(t *testing.T) {
	pods := &resource.Kind{GVK: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: "pods"}
	plugin := priority{Handler: admission.NewHandler(admission.Create), pods: pods}
	for name, c := range map[string]struct {
		class   string
		given   int32 // 0: none
		want    int32
		refused bool
	}{
		"none":                         {},
		"one's own":                    {given: 1000, want: 1000},
		"cluster-critical":             {class: "system-cluster-critical", want: 2000000000},
		"node-critical":                {class: "system-node-critical", want: 2000001000},
		"node-critical, given as well": {class: "system-node-critical", given: 2000001000, want: 2000001000},
		"another than the class's":     {class: "system-node-critical", given: 5, refused: true},
		"critical without a class":     {given: 2000000000, refused: true},
		"critical with another class":  {class: "mine", given: 2000001000, refused: true},
		"class that nobody knows here": {class: "mine"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{PriorityClassName: c.class}}
		if c.given != 0 {
			pod.Spec.Priority = &c.given
		}
		err := plugin.Admit(t.Context(), admission.NewAttributesRecord(pod, nil, pods.GVK, "", "", pods.GroupVersionResource(), "", admission.Create, nil, false, nil), nil)
		if apierrors.IsForbidden(err) != c.refused || c.refused && !strings.Contains(err.Error(), "the integer value of priority") || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := pod.Spec.Priority; !c.refused && (got == nil) != (c.want == 0) || got != nil && !c.refused && *got != c.want {
			t.Errorf("%s: priority %v, want %d", name, got, c.want)
		}
	}
}

package kinds

import (
	"strings"
	"testing"

	core "k8s.io/kubernetes/pkg/apis/core"
)

// Only the system's classes make a pod one that is not evicted.
func TestSystemPriorities(t *testing.T) {
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
		pod := &core.Pod{Spec: core.PodSpec{PriorityClassName: c.class}}
		if c.given != 0 {
			pod.Spec.Priority = &c.given
		}
		resolvePriority(pod)
		problems := validatePriority(pod)
		if c.refused != (len(problems) == 1) || c.refused && !strings.HasPrefix(problems[0].Error(), "spec.priority: Forbidden: the integer value of priority") {
			t.Errorf("%s: %v", name, problems)
		}
		if got := pod.Spec.Priority; !c.refused && (got == nil) != (c.want == 0) || got != nil && !c.refused && *got != c.want {
			t.Errorf("%s: priority %v, want %d", name, got, c.want)
		}
	}
}

package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/scheduling"
)

// systemPriorities are those of the two classes that every cluster has; classes of one's own are not there.
var systemPriorities = map[string]int32{
	scheduling.SystemClusterCritical: scheduling.SystemCriticalPriority,
	scheduling.SystemNodeCritical:    scheduling.SystemCriticalPriority + 1000,
}

// resolvePriority gives a pod of a system class its priority, as Kubernetes' Priority admission does: agents do not evict it.
func resolvePriority(pod *core.Pod) {
	if priority, ok := systemPriorities[pod.Spec.PriorityClassName]; ok && pod.Spec.Priority == nil {
		pod.Spec.Priority = &priority
	}
}

// validatePriority refuses a priority that is not the class's, and those of the system without one of its classes.
func validatePriority(pod *core.Pod) (list field.ErrorList) {
	given := pod.Spec.Priority
	computed, system := systemPriorities[pod.Spec.PriorityClassName]
	if given == nil || system && *given == computed || !system && *given <= scheduling.HighestUserDefinablePriority {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec", "priority"), fmt.Sprintf(
		"the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name",
		*given, computed))}
}

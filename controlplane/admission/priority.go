package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/scheduling"

	"github.com/skep-io/skep/controlplane/resource"
)

// systemPriorities are those of the two classes that every cluster has; classes of one's own are not there.
var systemPriorities = map[string]int32{
	scheduling.SystemClusterCritical: scheduling.SystemCriticalPriority,
	scheduling.SystemNodeCritical:    scheduling.SystemCriticalPriority + 1000,
}

// priority gives a pod of a system class its priority: agents do not evict it. It refuses a priority that is not the class's, and
// those of the system without one of its classes.
type priority struct {
	*admission.Handler
	pods *resource.Kind
}

func (p *priority) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !of(a, p.pods) {
		return nil
	}
	spec := &a.GetObject().(*corev1.Pod).Spec
	computed, system := systemPriorities[spec.PriorityClassName]
	switch {
	case system && spec.Priority == nil:
		spec.Priority = &computed
	case spec.Priority == nil, system && *spec.Priority == computed, !system && *spec.Priority <= scheduling.HighestUserDefinablePriority:
	default:
		return admission.NewForbidden(a, fmt.Errorf(
			"the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name",
			*spec.Priority, computed))
	}
	return nil
}

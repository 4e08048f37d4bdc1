package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	system "k8s.io/kubernetes/pkg/apis/scheduling/v1"

	"github.com/skep-io/skep/controlplane/resource"
)

// priority sets the priority and the preemption policy of new pods from their class, or from the default one, and refuses other values; it
// refuses a second default class, and the deletion of the system's classes.
type priority struct {
	*admission.Handler
	kinds    Kinds
	registry *resource.Registry
}

func (p *priority) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch op := a.GetOperation(); {
	case of(a, p.kinds.Pods) && op == admission.Create:
		return p.resolve(ctx, a)
	case of(a, p.kinds.Pods) && op == admission.Update:
		keepPriority(a.GetObject().(*corev1.Pod), a.GetOldObject().(*corev1.Pod))
	case of(a, p.kinds.PriorityClasses) && op == admission.Delete && slices.Contains(system.SystemPriorityClassNames(), a.GetName()):
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("this is a system priority class and cannot be deleted"))
	}
	return nil
}

func (p *priority) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !of(a, p.kinds.PriorityClasses) || a.GetOperation() == admission.Delete {
		return nil
	}
	class := a.GetObject().(*schedulingv1.PriorityClass)
	if !class.GlobalDefault {
		return nil
	}
	// The default class itself may be updated.
	if other := p.defaultClass(ctx); other != nil && (a.GetOperation() == admission.Create || other.Name != class.Name) {
		return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}

// resolve sets the values of a new pod's class.
func (p *priority) resolve(ctx context.Context, a admission.Attributes) error {
	spec := &a.GetObject().(*corev1.Pod).Spec
	class, err := p.classOf(ctx, a, spec.PriorityClassName)
	if err != nil {
		return err
	}
	if spec.Priority != nil && *spec.Priority != class.Value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *spec.Priority, class.Value))
	}
	policy := class.PreemptionPolicy
	if policy != nil && spec.PreemptionPolicy != nil && *spec.PreemptionPolicy != *policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *spec.PreemptionPolicy, *policy))
	}
	value := class.Value
	spec.PriorityClassName, spec.Priority = class.Name, &value
	if policy != nil {
		copied := *policy
		spec.PreemptionPolicy = &copied
	}
	return nil
}

// keepPriority gives an update from a client that does not know the fields what admission set on creation.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

// classOf is the class with a name, or the default one without a name. It is shared.
func (p *priority) classOf(ctx context.Context, a admission.Attributes, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		if class := p.defaultClass(ctx); class != nil {
			return class, nil
		}
		policy := corev1.PreemptLowerPriority
		return &schedulingv1.PriorityClass{Value: scheduling.DefaultPriorityWhenNoDefaultClassExists, PreemptionPolicy: &policy}, nil
	}
	class, err := resource.Get[*schedulingv1.PriorityClass](ctx, p.registry, p.kinds.PriorityClasses, "", name)
	if err == nil {
		return class, nil
	}
	if p.registry.Serves(p.kinds.PriorityClasses) {
		// It may be too new for the cache.
		stored, err := p.registry.Get(ctx, p.kinds.PriorityClasses, "", name, "")
		if err == nil {
			return stored.(*schedulingv1.PriorityClass), nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("failed to resolve PriorityClass with name %s: %w", name, err)
		}
	}
	for _, class := range system.SystemPriorityClasses() {
		if class.Name == name { // the control plane has not made it yet
			policy := corev1.PreemptLowerPriority
			class.PreemptionPolicy = &policy
			return class, nil
		}
	}
	return nil, admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
}

// defaultClass is the class of pods that name none: the lowest if a race has made several. It is shared.
func (p *priority) defaultClass(ctx context.Context) (chosen *schedulingv1.PriorityClass) {
	if p.registry.Cache(p.kinds.PriorityClasses).WaitForSync(ctx) != nil {
		return nil
	}
	for _, class := range resource.ListAs[*schedulingv1.PriorityClass](p.registry, p.kinds.PriorityClasses, "", nil) {
		if class.GlobalDefault && (chosen == nil || class.Value < chosen.Value) {
			chosen = class
		}
	}
	return chosen
}

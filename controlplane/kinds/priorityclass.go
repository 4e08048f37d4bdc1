package kinds

import (
	"context"
	"fmt"

	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	system "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/pkg/apis/scheduling/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// PriorityClasses is the kind of scheduling.k8s.io/v1 PriorityClass: a name for a pod's priority. Admission sets the number in pods when
// they are created.
var PriorityClasses = &resource.Kind{
	GVK:      schema.GroupVersionKind{Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass"},
	Resource: "priorityclasses", Singular: "priorityclass",
	ShortNames: []string{"pc"}, Verbs: allVerbs,
	New:     func() resource.Object { return &schedulingv1.PriorityClass{} },
	NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	Absence: resource.AbsenceIgnored,

	Default:        setDefaults,
	ValidateCreate: validateCreate(validation.ValidatePriorityClass),
	ValidateUpdate: validateUpdate(validation.ValidatePriorityClassUpdate),
	SpecChanged:    func(resource.Object, resource.Object) bool { return false }, // it has the generation 1 for good
}

// EnsurePriorityClasses makes the two classes that every cluster has.
func EnsurePriorityClasses(ctx context.Context, r *resource.Registry) error {
	for _, class := range system.SystemPriorityClasses() {
		if _, err := r.Create(ctx, PriorityClasses, class, resource.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("PriorityClass %q: %w", class.Name, err)
		}
	}
	return nil
}

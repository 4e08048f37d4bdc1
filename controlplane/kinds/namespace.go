package kinds

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/controlplane/resource"
)

// Namespaces is the kind of v1 Namespace. Its spec.finalizers change through the
// finalize subresource only.
var Namespaces = &resource.Kind{
	GVK: coreV1.WithKind("Namespace"), Resource: "namespaces", Singular: "namespace",
	ShortNames: []string{"ns"}, Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	New:     func() resource.Object { return &corev1.Namespace{} },
	NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	Absence: resource.AbsenceDecides,

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(ns *core.Namespace) {
		ns.Status = core.NamespaceStatus{Phase: core.NamespaceActive}
		if !slices.Contains(ns.Spec.Finalizers, core.FinalizerKubernetes) {
			ns.Spec.Finalizers = append(ns.Spec.Finalizers, core.FinalizerKubernetes)
		}
	}),
	ValidateCreate: validateCreate(validation.ValidateNamespace),
	PrepareForUpdate: prepareUpdate(func(ns, old *core.Namespace) {
		ns.Spec.Finalizers = old.Spec.Finalizers
		ns.Status = old.Status
	}),
	ValidateUpdate: validateUpdate(func(ns, old *core.Namespace) field.ErrorList {
		return append(validation.ValidateNamespace(ns), validation.ValidateNamespaceUpdate(ns, old)...)
	}),
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(ns, old *core.Namespace) { ns.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateNamespaceStatusUpdate, "status"),
	},
	Subresources: []resource.Subresource{{
		Name: "finalize", Verbs: []string{"update"},
		Update: &resource.UpdateRules{
			PrepareForUpdate: prepareUpdate(func(ns, old *core.Namespace) { ns.Status = old.Status }),
			Validate:         validateUpdate(validation.ValidateNamespaceFinalizeUpdate, "finalize"),
			ResetFields:      []fieldpath.Path{fieldpath.MakePathOrDie("status")},
		},
	}},
	Canonicalize: labelWithName,
	MarkDeleted: func(obj resource.Object) bool {
		status := &obj.(*corev1.Namespace).Status
		before := status.Phase
		status.Phase = corev1.NamespaceTerminating
		return before != corev1.NamespaceTerminating
	},
	Awaited: func(obj resource.Object) bool { return len(obj.(*corev1.Namespace).Spec.Finalizers) > 0 },
	Fields: func(obj resource.Object) fields.Set {
		return fields.Set{
			"status.phase": string(obj.(*corev1.Namespace).Status.Phase),
			"name":         obj.GetName(), // as Kubernetes has it, though no one writes it any more
		}
	},
}

// labelWithName sets the label to a generated name, too: when defaults are set, the name
// is not generated yet.
func labelWithName(obj resource.Object) {
	ns := obj.(*corev1.Namespace)
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

// EnsureNamespaces makes the namespaces that every cluster has.
func EnsureNamespaces(ctx context.Context, r *resource.Registry) error {
	for _, name := range []string{
		metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease,
	} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := r.Create(ctx, Namespaces, ns, resource.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("namespace %q: %w", name, err)
		}
	}
	return nil
}

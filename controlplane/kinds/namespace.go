package kinds

import (
	"context"
	"errors"
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

	"github.com/skep-io/skep/controlplane/resource"
)

// Namespaces is the kind of v1 Namespace. Its spec.finalizers change through the
// finalize subresource only.
var Namespaces = &resource.Kind{
	GVK: coreV1.WithKind("Namespace"), Resource: "namespaces", Singular: "namespace",
	ShortNames: []string{"ns"}, Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	New:     func() resource.Object { return &corev1.Namespace{} },
	NewList: func() runtime.Object { return &corev1.NamespaceList{} },

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
		},
	}},
	Canonicalize: labelWithName,
	MayDelete: func(name string) error {
		if slices.Contains(protectedNamespaces, name) {
			return errors.New("this namespace may not be deleted")
		}
		return nil
	},
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

// protectedNamespaces are those that a cluster cannot do without.
var protectedNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// labelWithName says a generated name in the label, too: when defaults are given,
// the name is not known yet.
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

// acceptsContent checks that a new object's namespace exists and is not about to go.
func acceptsContent(ctx context.Context, r *resource.Registry, k *resource.Kind, obj resource.Object) error {
	if !k.Namespaced || !r.Serves(Namespaces) {
		return nil // a registry without namespaces has nothing to check
	}
	ns := obj.GetNamespace()
	namespace, err := resource.Get[*corev1.Namespace](ctx, r, Namespaces, "", ns)
	if err != nil {
		// It may be too new for the cache.
		stored, err := r.Get(ctx, Namespaces, "", ns, "")
		if err != nil {
			return err
		}
		namespace, _ = stored.(*corev1.Namespace)
	}
	if namespace == nil || namespace.Status.Phase != corev1.NamespaceTerminating && namespace.DeletionTimestamp == nil {
		return nil
	}
	name := obj.GetName()
	if name == "" {
		name = obj.GetGenerateName()
	}
	refused := apierrors.NewForbidden(k.GroupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns))
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", ns),
		Field:   "metadata.namespace",
	})
	return refused
}

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/resource"
)

// protectedNamespaces are those that a cluster needs.
var protectedNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// namespaceLifecycle allows new objects only in namespaces that exist and are not being deleted, and refuses to delete the protected
// namespaces.
type namespaceLifecycle struct {
	*admission.Handler
	namespaces *resource.Kind
	registry   *resource.Registry
}

func (p *namespaceLifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Delete {
		if of(a, p.namespaces) && slices.Contains(protectedNamespaces, a.GetName()) {
			return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("this namespace may not be deleted"))
		}
		return nil
	}
	ns := a.GetNamespace()
	if ns == "" || a.GetSubresource() != "" || !p.registry.Serves(p.namespaces) {
		return nil // a registry without namespaces has nothing to check
	}
	namespace, err := resource.Get[*corev1.Namespace](ctx, p.registry, p.namespaces, "", ns)
	if err != nil {
		// It may be too new for the cache.
		stored, err := p.registry.Get(ctx, p.namespaces, "", ns, "")
		if err != nil {
			return err
		}
		namespace, _ = stored.(*corev1.Namespace)
	}
	if namespace == nil || namespace.Status.Phase != corev1.NamespaceTerminating && namespace.DeletionTimestamp == nil {
		return nil
	}
	name := a.GetName()
	if obj, err := meta.Accessor(a.GetObject()); name == "" && err == nil {
		name = obj.GetGenerateName()
	}
	refused := apierrors.NewForbidden(a.GetResource().GroupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns))
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", ns),
		Field:   "metadata.namespace",
	})
	return refused
}

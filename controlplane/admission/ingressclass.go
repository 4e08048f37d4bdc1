package admission

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/resource"
)

// defaultIngressClass gives a new Ingress that names no class the one that is
// marked as the default: the newest, if there are several.
type defaultIngressClass struct {
	*admission.Handler
	kinds    Kinds
	registry *resource.Registry
}

func (p *defaultIngressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !of(a, p.kinds.Ingresses) || !p.registry.Serves(p.kinds.IngressClasses) {
		return nil
	}
	ingress := a.GetObject().(*networkingv1.Ingress)
	if _, ok := ingress.Annotations[networkingv1beta1.AnnotationIngressClass]; ok || ingress.Spec.IngressClassName != nil {
		return nil
	}
	var chosen *networkingv1.IngressClass
	// They are listed in order of their names, so that of two of the same age the first by name is chosen.
	for _, class := range resource.ListAs[*networkingv1.IngressClass](p.registry, p.kinds.IngressClasses, "", nil) {
		if class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" &&
			(chosen == nil || chosen.CreationTimestamp.Before(&class.CreationTimestamp)) {
			chosen = class
		}
	}
	if chosen != nil {
		ingress.Spec.IngressClassName = &chosen.Name
	}
	return nil
}

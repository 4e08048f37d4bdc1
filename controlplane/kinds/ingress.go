package kinds

import (
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Ingresses is the kind of networking.k8s.io/v1 Ingress. It is stored for
// ingress controllers: nothing in Skep serves one.
var Ingresses = &resource.Kind{
	GVK: networkingV1.WithKind("Ingress"), Resource: "ingresses", Singular: "ingress",
	ShortNames: []string{"ing"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &networkingv1.Ingress{} },
	NewList: func() runtime.Object { return &networkingv1.IngressList{} },
	Absence: resource.AbsenceIgnored,
	Path:    "ingress",

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(ingress *networking.Ingress) {
		ingress.Status = networking.IngressStatus{}
	}),
	ValidateCreate:   validateCreate(validation.ValidateIngressCreate),
	PrepareForUpdate: prepareUpdate(func(ingress, old *networking.Ingress) { ingress.Status = old.Status }),
	ValidateUpdate:   validateUpdate(validation.ValidateIngressUpdate),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*networkingv1.Ingress).Spec, old.(*networkingv1.Ingress).Spec)
	},
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(ingress, old *networking.Ingress) { ingress.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateIngressStatusUpdate, "status"),
	},
	Warnings: func(obj resource.Object) []string {
		ingress := obj.(*networkingv1.Ingress)
		if _, ok := ingress.Annotations[networkingv1beta1.AnnotationIngressClass]; ok && ingress.Spec.IngressClassName == nil {
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", networkingv1beta1.AnnotationIngressClass)}
		}
		return nil
	},
}

// IngressClasses is the kind of networking.k8s.io/v1 IngressClass.
var IngressClasses = &resource.Kind{
	GVK: networkingV1.WithKind("IngressClass"), Resource: "ingressclasses", Singular: "ingressclass",
	Verbs:   allVerbs,
	New:     func() resource.Object { return &networkingv1.IngressClass{} },
	NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
	Absence: resource.AbsenceIgnored,

	Default:        setDefaults,
	ValidateCreate: validateCreate(validation.ValidateIngressClass),
	ValidateUpdate: validateUpdate(func(class, old *networking.IngressClass) field.ErrorList {
		return validation.ValidateIngressClassUpdate(class, old)
	}),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*networkingv1.IngressClass).Spec, old.(*networkingv1.IngressClass).Spec)
	},
}

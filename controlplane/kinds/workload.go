package kinds

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// workload is what the apps/v1 kinds that keep pods from a template have in common;
// I is the internal type.
type workload[I any] struct {
	template       func(*I) *core.PodTemplateSpec
	selector       func(*I) *metav1.LabelSelector
	keepStatus     func(obj, old *I) // old is an empty one for a new object
	validate       func(*I, validation.PodValidationOptions) field.ErrorList
	validateUpdate func(obj, old *I, opts validation.PodValidationOptions) field.ErrorList
}

// rules sets a kind's defaults and validation, and what writers may change.
func (w workload[I]) rules(k *resource.Kind) *resource.Kind {
	k.Categories, k.Namespaced, k.Verbs, k.Default = []string{"all"}, true, allVerbs, setDefaults
	k.PrepareForCreate = prepareCreate(func(obj *I) {
		w.keepStatus(obj, new(I))
		podapi.DropDisabledTemplateFields(w.template(obj), nil)
	})
	k.ValidateCreate = validateCreate(func(obj *I) field.ErrorList {
		return w.validate(obj, podapi.GetValidationOptionsFromPodTemplate(w.template(obj), nil))
	})
	k.PrepareForUpdate = prepareUpdate(func(obj, old *I) {
		w.keepStatus(obj, old)
		podapi.DropDisabledTemplateFields(w.template(obj), w.template(old))
	})
	k.ValidateUpdate = validateUpdate(func(obj, old *I) field.ErrorList {
		errs := w.validateUpdate(obj, old, podapi.GetValidationOptionsFromPodTemplate(w.template(obj), w.template(old)))
		return append(errs, immutable(w.selector(obj), w.selector(old))...)
	})
	k.Warnings = func(obj resource.Object) []string { return templateWarnings(w.template(scheme.Internal[I](obj))) }
	return k
}

// atLeastOne is the number of replicas: 1 if none was given.
func atLeastOne(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// immutable refuses another selector: pods that the old one matched would have no owner.
func immutable(selector, old *metav1.LabelSelector) field.ErrorList {
	if apiequality.Semantic.DeepEqual(selector, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "selector"), selector, "field is immutable")}
}

func templateWarnings(template *core.PodTemplateSpec) []string {
	return podapi.GetWarningsForPodTemplate(context.Background(), field.NewPath("spec", "template"), template, nil)
}

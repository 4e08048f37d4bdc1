package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podapi "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// PodTemplates is the kind of v1 PodTemplate. They are only stored: nothing here makes pods from them.
var PodTemplates = &resource.Kind{
	GVK: coreV1.WithKind("PodTemplate"), Resource: "podtemplates", Singular: "podtemplate",
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.PodTemplate{} },
	NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
	Absence: resource.AbsenceIgnored,

	Default:          setDefaults,
	PrepareForCreate: prepareCreate(func(t *core.PodTemplate) { podapi.DropDisabledTemplateFields(&t.Template, nil) }),
	ValidateCreate: validateCreate(func(t *core.PodTemplate) field.ErrorList {
		return validation.ValidatePodTemplate(t, podapi.GetValidationOptionsFromPodTemplate(&t.Template, nil))
	}),
	PrepareForUpdate: prepareUpdate(func(t, old *core.PodTemplate) { podapi.DropDisabledTemplateFields(&t.Template, &old.Template) }),
	ValidateUpdate: validateUpdate(func(t, old *core.PodTemplate) field.ErrorList {
		return validation.ValidatePodTemplateUpdate(t, old, podapi.GetValidationOptionsFromPodTemplate(&t.Template, &old.Template))
	}),
	SpecChanged: func(obj, old resource.Object) bool {
		return !apiequality.Semantic.DeepEqual(obj.(*corev1.PodTemplate).Template, old.(*corev1.PodTemplate).Template)
	},
	ReturnsDeleted: true,
	Warnings: func(obj resource.Object) []string {
		return podapi.GetWarningsForPodTemplate(context.Background(), field.NewPath("template"), &scheme.Internal[core.PodTemplate](obj).Template, nil)
	},
}

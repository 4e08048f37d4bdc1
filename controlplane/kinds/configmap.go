package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// ConfigMaps is the kind of v1 ConfigMap.
var ConfigMaps = &resource.Kind{
	GVK: coreV1.WithKind("ConfigMap"), Resource: "configmaps", Singular: "configmap",
	ShortNames: []string{"cm"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.ConfigMap{} },
	NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
	Absence: resource.AbsenceIgnored,

	Default:        setDefaults,
	ValidateCreate: validateCreate(validation.ValidateConfigMap),
	ValidateUpdate: validateUpdate(validation.ValidateConfigMapUpdate),
}

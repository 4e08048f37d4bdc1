package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Endpoints is the kind of v1 Endpoints.
var Endpoints = &resource.Kind{
	GVK: coreV1.WithKind("Endpoints"), Resource: "endpoints", Singular: "endpoints",
	ShortNames: []string{"ep"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Endpoints{} },
	NewList: func() runtime.Object { return &corev1.EndpointsList{} },
	Absence: resource.AbsenceDecides,
	Path:    "services/endpoints",

	Default:        setDefaults,
	ValidateCreate: validateCreate(validation.ValidateEndpointsCreate),
	ValidateUpdate: validateUpdate(validation.ValidateEndpointsUpdate),
	Warnings:       endpointsWarnings,
}

// endpointsWarnings warns of addresses in unusual forms. The endpoints controller writes
// none, so its objects, the majority, are not searched.
func endpointsWarnings(obj resource.Object) []string {
	const managedBy, controller = "endpoints.kubernetes.io/managed-by", "endpoint-controller"
	endpoints := obj.(*corev1.Endpoints)
	if endpoints.Labels[managedBy] == controller {
		return nil
	}
	var warnings []string
	warn := func(path *field.Path, addresses []corev1.EndpointAddress) {
		for i, address := range addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(path.Index(i).Child("ip"), address.IP)...)
		}
	}
	for i, subset := range endpoints.Subsets {
		path := field.NewPath("subsets").Index(i)
		warn(path.Child("addresses"), subset.Addresses)
		warn(path.Child("notReadyAddresses"), subset.NotReadyAddresses)
	}
	return warnings
}

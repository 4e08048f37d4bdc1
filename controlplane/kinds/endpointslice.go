package kinds

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/discovery"
	"k8s.io/kubernetes/pkg/apis/discovery/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// SlicesByService finds the endpoint slices of a service, by "namespace/name".
const SlicesByService = "service"

// EndpointSlices is the kind of discovery.k8s.io/v1 EndpointSlice.
var EndpointSlices = &resource.Kind{
	GVK: discoveryV1.WithKind("EndpointSlice"), Resource: "endpointslices", Singular: "endpointslice",
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &discoveryv1.EndpointSlice{} },
	NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Absence: resource.AbsenceDecides,

	Default:          setDefaults,
	PrepareForCreate: prepareCreate(func(slice *discovery.EndpointSlice) { dropTopology(slice, nil) }),
	ValidateCreate:   validateCreate(validation.ValidateEndpointSliceCreate),
	PrepareForUpdate: prepareUpdate(dropTopology),
	ValidateUpdate:   validateUpdate(validation.ValidateEndpointSliceUpdate),
	SpecChanged: func(obj, old resource.Object) bool {
		slice, before := obj.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
		return slice.AddressType != before.AddressType ||
			!apiequality.Semantic.DeepEqual(slice.Endpoints, before.Endpoints) ||
			!apiequality.Semantic.DeepEqual(slice.Ports, before.Ports) ||
			!apiequality.Semantic.DeepEqual(slice.Labels, before.Labels)
	},
	Warnings: endpointSliceWarnings,
	Indexes: map[string]func(resource.Object) []string{
		SlicesByService: func(obj resource.Object) []string {
			service := obj.GetLabels()[discoveryv1.LabelServiceName]
			if service == "" {
				return nil
			}
			return []string{obj.GetNamespace() + "/" + service}
		},
	},
}

// dropTopology refuses writes to a field that v1 only reads, for objects that
// were stored before v1.
func dropTopology(slice, old *discovery.EndpointSlice) {
	if old != nil && apiequality.Semantic.DeepEqual(slice.Endpoints, old.Endpoints) {
		return
	}
	for i := range slice.Endpoints {
		slice.Endpoints[i].DeprecatedTopology = nil
	}
}

func endpointSliceWarnings(obj resource.Object) []string {
	slice := obj.(*discoveryv1.EndpointSlice)
	var warnings []string
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
	}
	switch slice.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return warnings
	}
	for i, endpoint := range slice.Endpoints {
		for j, address := range endpoint.Addresses {
			path := field.NewPath("endpoints").Index(i).Child("addresses").Index(j)
			warnings = append(warnings, utilvalidation.GetWarningsForIP(path, address)...)
		}
	}
	return warnings
}

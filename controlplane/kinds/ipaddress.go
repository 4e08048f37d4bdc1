package kinds

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// IPAddresses is the kind of networking.k8s.io/v1 IPAddress: the record of who
// holds a service address.
var IPAddresses = &resource.Kind{
	GVK: networkingV1.WithKind("IPAddress"), Resource: "ipaddresses", Singular: "ipaddress",
	ShortNames: []string{"ip"}, Verbs: allVerbs,
	New:     func() resource.Object { return &networkingv1.IPAddress{} },
	NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
	Absence: resource.AbsenceDecides,

	Default:        setDefaults,
	ValidateCreate: validateCreate(validation.ValidateIPAddress),
	ValidateUpdate: validateUpdate(func(address, old *networking.IPAddress) field.ErrorList {
		return append(validation.ValidateIPAddress(address), validation.ValidateIPAddressUpdate(address, old)...)
	}),
}

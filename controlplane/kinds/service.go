package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	serviceapi "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Services is the kind of v1 Service.
var Services = &resource.Kind{
	GVK: coreV1.WithKind("Service"), Resource: "services", Singular: "service",
	ShortNames: []string{"svc"}, Categories: []string{"all"},
	Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Service{} },
	NewList: func() runtime.Object { return &corev1.ServiceList{} },
	Absence: resource.AbsenceDecides,
	Path:    "services/specs",

	Default: setDefaults,
	PrepareForCreate: prepareCreate(func(service *core.Service) {
		service.Status = core.ServiceStatus{}
		if service.Spec.ClusterIP != "" && len(service.Spec.ClusterIPs) == 0 {
			service.Spec.ClusterIPs = []string{service.Spec.ClusterIP}
		}
	}),
	ValidateCreate: validateCreate(func(service *core.Service) field.ErrorList {
		return append(validation.ValidateServiceCreate(service), servicespec.ValidateAnnotations(service.Annotations, nil)...)
	}),
	PrepareForUpdate: prepareUpdate(prepareServiceUpdate),
	ValidateUpdate: validateUpdate(func(service, old *core.Service) field.ErrorList {
		return append(validation.ValidateServiceUpdate(service, old), servicespec.ValidateAnnotations(service.Annotations, old.Annotations)...)
	}),
	Status: &resource.UpdateRules{
		PrepareForUpdate: prepareUpdate(func(service, old *core.Service) { service.Spec = old.Spec }),
		Validate:         validateUpdate(validation.ValidateServiceStatusUpdate, "status"),
	},
	Subresources:   []resource.Subresource{proxied("ServiceProxyOptions", func() runtime.Object { return &corev1.ServiceProxyOptions{} })},
	ReturnsDeleted: true,
	Warnings: func(obj resource.Object) []string {
		return append(serviceapi.GetWarningsForService(scheme.Internal[core.Service](obj), nil), servicespec.AnnotationWarnings(obj.GetAnnotations())...)
	},
	Fields: func(obj resource.Object) fields.Set {
		service := obj.(*corev1.Service)
		return fields.Set{
			"spec.clusterIP": service.Spec.ClusterIP,
			"spec.type":      string(service.Spec.Type),
		}
	},
}

// prepareServiceUpdate sets fields that depend on each other: values that were allocated
// for an old manifest stay when it is sent again, and those that a new type does not use
// are removed, unless the writer changed them, which validation refuses.
func prepareServiceUpdate(service, old *core.Service) {
	service.Status = old.Status
	keepAllocated(service, old)
	alignClusterIPs(service, old)
	keepFamilies(service, old)
	dropForType(service, old)
}

func keepAllocated(service, old *core.Service) {
	if needsClusterIP(old) && needsClusterIP(service) {
		if service.Spec.ClusterIP == "" {
			service.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(service.Spec.ClusterIPs) == 0 {
			service.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	}
	if needsNodePorts(old) && needsNodePorts(service) {
		keepNodePorts(service.Spec.Ports, old.Spec.Ports)
	}
	if serviceapi.NeedsHealthCheck(old) && serviceapi.NeedsHealthCheck(service) && service.Spec.HealthCheckNodePort == 0 {
		service.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts gives ports without a node port the one that the port of the
// same name had, unless the writer moved it to another port.
func keepNodePorts(ports, old []core.ServicePort) {
	named := map[int32]bool{}
	for _, port := range ports {
		named[port.NodePort] = true
	}
	before := map[string]int32{}
	for _, port := range old {
		before[port.Name] = port.NodePort
	}
	for i := range ports {
		if nodePort := before[ports[i].Name]; ports[i].NodePort == 0 && !named[nodePort] {
			ports[i].NodePort = nodePort
		}
	}
}

// alignClusterIPs lets a writer that sets only clusterIP change clusterIPs with it.
func alignClusterIPs(service, old *core.Service) {
	if service.Spec.ClusterIP == old.Spec.ClusterIP {
		if len(service.Spec.ClusterIPs) == 0 {
			service.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
		return
	}
	if !slices.Equal(service.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		return
	}
	service.Spec.ClusterIPs = nil
	if service.Spec.ClusterIP != "" {
		service.Spec.ClusterIPs = []string{service.Spec.ClusterIP}
	}
}

// keepFamilies keeps the families of a manifest that does not name them.
func keepFamilies(service, old *core.Service) {
	if !needsClusterIP(service) || !needsClusterIP(old) {
		return
	}
	if service.Spec.IPFamilyPolicy == nil {
		service.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
	}
	if len(service.Spec.IPFamilies) == 0 {
		service.Spec.IPFamilies = old.Spec.IPFamilies
	}
}

func dropForType(service, old *core.Service) {
	spec, before := &service.Spec, &old.Spec
	if needsClusterIP(old) && !needsClusterIP(service) {
		if spec.ClusterIP == before.ClusterIP && slices.Equal(spec.ClusterIPs, before.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, before.IPFamilies) {
			spec.IPFamilies = nil
		}
		if ptr.Equal(spec.IPFamilyPolicy, before.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if serviceapi.ExternallyAccessible(old) && !serviceapi.ExternallyAccessible(service) &&
		spec.ExternalTrafficPolicy == before.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if hasNodePorts(old) && !hasNodePorts(service) && addsNoNodePort(service, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	dropForLoadBalancer(service, old)
}

func dropForLoadBalancer(service, old *core.Service) {
	spec, before := &service.Spec, &old.Spec
	if serviceapi.NeedsHealthCheck(old) && !serviceapi.NeedsHealthCheck(service) &&
		spec.HealthCheckNodePort == before.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if spec.Type == core.ServiceTypeLoadBalancer {
		return
	}
	service.Status.LoadBalancer = core.LoadBalancerStatus{}
	if before.Type != core.ServiceTypeLoadBalancer {
		return
	}
	if ptr.Equal(spec.AllocateLoadBalancerNodePorts, before.AllocateLoadBalancerNodePorts) {
		spec.AllocateLoadBalancerNodePorts = nil
	}
	if ptr.Equal(spec.LoadBalancerClass, before.LoadBalancerClass) {
		spec.LoadBalancerClass = nil
	}
}

func needsClusterIP(service *core.Service) bool {
	return service.Spec.Type != core.ServiceTypeExternalName
}

// hasNodePorts says whether the type may have node ports, needsNodePorts whether
// ports without one get one.
func hasNodePorts(service *core.Service) bool {
	return service.Spec.Type == core.ServiceTypeNodePort || service.Spec.Type == core.ServiceTypeLoadBalancer
}

func needsNodePorts(service *core.Service) bool {
	return service.Spec.Type == core.ServiceTypeNodePort ||
		service.Spec.Type == core.ServiceTypeLoadBalancer && ptr.Deref(service.Spec.AllocateLoadBalancerNodePorts, true)
}

func addsNoNodePort(service, old *core.Service) bool {
	known := map[int32]bool{0: true}
	for _, port := range old.Spec.Ports {
		known[port.NodePort] = true
	}
	for _, port := range service.Spec.Ports {
		if !known[port.NodePort] {
			return false
		}
	}
	return true
}

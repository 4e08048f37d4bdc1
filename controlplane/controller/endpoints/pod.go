package endpoints

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
)

// reachable says whether a pod has an address and may still answer at it.
func reachable(pod *corev1.Pod, terminating bool) bool {
	if controller.PodTerminal(pod) || pod.Status.PodIP == "" && len(pod.Status.PodIPs) == 0 {
		return false
	}
	return terminating || pod.DeletionTimestamp == nil
}

// endpointChanged says whether what services see of a pod changed.
func endpointChanged(old, cur *corev1.Pod) bool {
	return old.Status.PodIP != cur.Status.PodIP ||
		!equality.Semantic.DeepEqual(old.Status.PodIPs, cur.Status.PodIPs) ||
		(old.DeletionTimestamp == nil) != (cur.DeletionTimestamp == nil) ||
		controller.PodReady(old) != controller.PodReady(cur) ||
		controller.PodTerminal(old) != controller.PodTerminal(cur) ||
		old.Spec.NodeName != cur.Spec.NodeName ||
		old.Spec.Hostname != cur.Spec.Hostname || old.Spec.Subdomain != cur.Spec.Subdomain
}

// addressOf returns a pod's address of a family, or "".
func addressOf(pod *corev1.Pod, family corev1.IPFamily) string {
	ips := pod.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if familyOf(ip.IP) == family {
			return ip.IP
		}
	}
	return ""
}

// familyOf returns the family of an address, or "" if it is none.
func familyOf(ip string) corev1.IPFamily {
	addr, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return ""
	case addr.Unmap().Is4():
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// portOf finds the port at which a pod serves a service's port.
func portOf(pod *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	switch port.TargetPort.Type {
	case intstr.Int:
		if port.TargetPort.IntVal == 0 {
			return port.Port, true
		}
		return port.TargetPort.IntVal, true
	case intstr.String:
		if n, ok := namedPort(pod.Spec.Containers, port); ok {
			return n, true
		}
		// Init containers that restart always are sidecars: they serve along with the others.
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				if n, ok := namedPort(pod.Spec.InitContainers[i:i+1], port); ok {
					return n, true
				}
			}
		}
	}
	return 0, false
}

func namedPort(containers []corev1.Container, port *corev1.ServicePort) (int32, bool) {
	for i := range containers {
		for _, p := range containers[i].Ports {
			if p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

// hostnameOf is a pod's name in a headless service's DNS, or "".
func hostnameOf(pod *corev1.Pod, service *corev1.Service) string {
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		return pod.Spec.Hostname
	}
	return ""
}

// toEndpoint makes the slice entry of a pod.
func toEndpoint(pod *corev1.Pod, service *corev1.Service, address, zone string) discoveryv1.Endpoint {
	serving := controller.PodReady(pod)
	terminating := pod.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{address},
		Conditions: discoveryv1.EndpointConditions{
			Ready:       ptr.To(service.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     ptr.To(serving),
			Terminating: ptr.To(terminating),
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = ptr.To(pod.Spec.NodeName)
	}
	if zone != "" {
		e.Zone = ptr.To(zone)
	}
	if hostname := hostnameOf(pod, service); hostname != "" {
		e.Hostname = ptr.To(hostname)
	}
	e.Hints = hintsFor(service, &e)
	return e
}

// hintsFor names the zone, and the node, whose clients a ready endpoint is to serve
// first, as the service's trafficDistribution asks; nil: all clients.
func hintsFor(service *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if !*e.Conditions.Ready {
		return nil
	}
	var hints discoveryv1.EndpointHints
	switch val(service.Spec.TrafficDistribution) {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			hints.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		hints.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if hints.ForNodes == nil && hints.ForZones == nil {
		return nil
	}
	return &hints
}

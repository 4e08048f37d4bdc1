package servicespec

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// HostPortPrefix is the prefix of the names of host ports in the data plane. Services'
// names have one slash, these have more.
const HostPortPrefix = "host-port/"

// HostPort is a port of a node that leads to a pod.
type HostPort struct {
	Name          string // in the data plane
	Frontends     []Frontend
	ContainerPort uint16
}

// HostPorts are those of a pod with these addresses, in their families. Each has a frontend.
func HostPorts(pod *corev1.Pod, addrs []netip.Addr) (out []HostPort) {
	for _, c := range servingContainers(pod) {
		for i := range c.Ports {
			if port := &c.Ports[i]; port.HostPort != 0 {
				if h := hostPort(pod, port, addrs); len(h.Frontends) > 0 {
					out = append(out, h)
				}
			}
		}
	}
	return out
}

func hostPort(pod *corev1.Pod, port *corev1.ContainerPort, addrs []netip.Addr) HostPort {
	protocol := port.Protocol
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	h := HostPort{
		Name:          fmt.Sprintf("%s%s/%s:%s:%d/%s", HostPortPrefix, pod.Namespace, pod.Name, port.HostIP, port.HostPort, protocol),
		ContainerPort: uint16(port.ContainerPort),
	}
	hosts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if host, err := netip.ParseAddr(port.HostIP); err == nil && !host.IsUnspecified() {
		hosts = []netip.Addr{host.Unmap()}
	}
	for _, addr := range addrs {
		for _, host := range hosts {
			f := Frontend{Addr: host, Port: uint16(port.HostPort), Protocol: protocol}
			if host.Is4() != addr.Is4() || slices.Contains(h.Frontends, f) {
				continue
			}
			h.Frontends = append(h.Frontends, f)
			if !host.IsLoopback() {
				f.Outside = true
				h.Frontends = append(h.Frontends, f)
			}
		}
	}
	return h
}

// servingContainers are those that run as long as the pod.
func servingContainers(pod *corev1.Pod) (list []*corev1.Container) {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			list = append(list, c)
		}
	}
	for i := range pod.Spec.Containers {
		list = append(list, &pod.Spec.Containers[i])
	}
	return list
}

// PodAddrs are the addresses in a pod's status.
func PodAddrs(pod *corev1.Pod) (addrs []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// Running says whether a pod has not ended.
func Running(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

package services

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/dataplane/service"
)

// hostPortPrefix begins the names of host ports in the plane. Services' names have one slash, these have two.
const hostPortPrefix = "host-port/"

// SetHostPorts makes the host ports of a pod lead to its addresses.
func (w *Watcher) SetHostPorts(pod *corev1.Pod, addrs []netip.Addr) {
	var names []string
	for _, s := range hostPorts(pod, addrs, w.cfg.Node) {
		w.cfg.Plane.SetService(s)
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return
	}
	w.mu.Lock()
	w.hostPorts[string(pod.UID)] = names
	w.mu.Unlock()
	w.reporter.hostPort(pod, true)
}

// DeleteHostPorts closes those of a pod.
func (w *Watcher) DeleteHostPorts(pod *corev1.Pod) {
	w.mu.Lock()
	names := w.hostPorts[string(pod.UID)]
	delete(w.hostPorts, string(pod.UID))
	w.mu.Unlock()
	for _, name := range names {
		w.cfg.Plane.DeleteService(name)
	}
	if len(names) > 0 {
		w.reporter.hostPort(pod, false)
	}
}

// hostPorts are services whose only backend is the pod. Readiness has no say: who knows the host's port knows the pod.
func hostPorts(pod *corev1.Pod, addrs []netip.Addr, node string) (out []service.Service) {
	for _, c := range servingContainers(pod) {
		for i := range c.Ports {
			port := &c.Ports[i]
			protocol, ok := protocolOf(port.Protocol)
			if port.HostPort == 0 || !ok {
				continue
			}
			s := service.Service{
				Name:          fmt.Sprintf("%s%s/%s:%s:%d/%s", hostPortPrefix, pod.Namespace, pod.Name, port.HostIP, port.HostPort, protocol),
				Unconditional: true,
			}
			hosts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
			if host, err := netip.ParseAddr(port.HostIP); err == nil && !host.IsUnspecified() {
				hosts = []netip.Addr{host.Unmap()}
			}
			for _, addr := range addrs {
				s.Backends = append(s.Backends, service.Backend{Addr: addr, Port: uint16(port.ContainerPort), Node: node})
				for _, host := range hosts {
					if host.Is4() != addr.Is4() {
						continue
					}
					f := service.Frontend{Addr: host, Port: uint16(port.HostPort), Protocol: protocol, Scope: service.ScopeCluster}
					s.Frontends = append(s.Frontends, f)
					if !host.IsLoopback() {
						f.Scope = service.ScopeExternal
						s.Frontends = append(s.Frontends, f)
					}
				}
			}
			out = append(out, s)
		}
	}
	return out
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

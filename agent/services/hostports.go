package services

import (
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// SetHostPorts makes the host ports of a pod lead to its addresses.
func (w *Watcher) SetHostPorts(pod *corev1.Pod, addrs []netip.Addr) {
	list := hostPorts(pod, addrs, w.cfg.Node, func(h servicespec.HostPort) string {
		why := w.served(h)
		if why != "" {
			slog.Error("a host port does not lead to its pod", "pod", pod.Namespace+"/"+pod.Name, "reason", why)
			w.reporter.recorder.Event(pod, corev1.EventTypeWarning, servicespec.ReasonNotInstalled, h.Name+": "+why)
		}
		return why
	})
	if len(list) == 0 {
		return
	}
	w.reporter.hostPort(pod, true) // before the plane can have anything to say about them
	var names []string
	for _, s := range list {
		w.cfg.Plane.SetService(s)
		names = append(names, s.Name)
	}
	w.mu.Lock()
	w.hostPorts[string(pod.UID)] = names
	w.mu.Unlock()
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
// One at an address that this node does not have is none.
// Nor is one that served has something against.
func hostPorts(pod *corev1.Pod, addrs []netip.Addr, node string, served func(servicespec.HostPort) string) (out []service.Service) {
	for _, h := range servicespec.HostPorts(pod, addrs) {
		protocol, ok := protocolOf(h.Frontends[0].Protocol)
		if !ok {
			continue
		}
		if served(h) != "" {
			continue
		}
		s := service.Service{
			Name: h.Name, Unconditional: true, Since: servicespec.Since(pod),
			Frontends: planeFrontends(h.Frontends, protocol, false),
		}
		for i := range s.Frontends {
			s.Frontends[i].Here = true // a pod can name any address, also one that others serve at
		}
		for _, addr := range addrs {
			s.Backends = append(s.Backends, service.Backend{Addr: addr, Port: h.ContainerPort, Node: node})
		}
		out = append(out, s)
	}
	return out
}

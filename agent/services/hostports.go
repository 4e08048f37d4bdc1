package services

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// listenersEvery is how often the ports that lead to pods are compared with those that the node's own programs serve.
const listenersEvery = 5 * time.Second

// podPorts are the host ports of one pod.
type podPorts struct {
	pod   *corev1.Pod
	addrs []netip.Addr
	names []string          // in the plane
	left  map[string]string // those that do not lead to the pod, with the reason
}

// SetHostPorts makes the host ports of a pod lead to its addresses, as long as no program of this node serves there.
func (w *Watcher) SetHostPorts(pod *corev1.Pod, addrs []netip.Addr) {
	w.portsMu.Lock()
	defer w.portsMu.Unlock()
	ports := w.hostPorts[string(pod.UID)]
	if ports == nil {
		if len(servicespec.HostPorts(pod, addrs)) == 0 {
			return
		}
		ports = &podPorts{}
		w.hostPorts[string(pod.UID)] = ports
	}
	ports.pod, ports.addrs = pod, addrs
	w.settle(ports, true)
}

// DeleteHostPorts closes those of a pod.
func (w *Watcher) DeleteHostPorts(pod *corev1.Pod) {
	w.portsMu.Lock()
	defer w.portsMu.Unlock()
	ports := w.hostPorts[string(pod.UID)]
	if ports == nil {
		return
	}
	delete(w.hostPorts, string(pod.UID))
	for _, name := range ports.names {
		w.cfg.Plane.DeleteService(name)
	}
	w.reporter.hostPort(pod, false)
}

// followListeners gives ports up to programs of the node that begin to serve them, and back to pods when they have stopped.
func (w *Watcher) followListeners(ctx context.Context) {
	look := time.NewTicker(listenersEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			w.compareListeners()
		}
	}
}

func (w *Watcher) compareListeners() {
	w.portsMu.Lock()
	defer w.portsMu.Unlock()
	for _, ports := range w.hostPorts {
		w.settle(ports, false)
	}
}

// settle has the plane lead those of a pod's ports to it that no program of this node serves; with again also those that lead to it
// already. The caller holds portsMu.
func (w *Watcher) settle(ports *podPorts, again bool) {
	left := map[string]string{}
	list := hostPorts(ports.pod, ports.addrs, w.cfg.Node, func(h servicespec.HostPort) string {
		why := w.served(h)
		if why != "" {
			left[h.Name] = why
		}
		return why
	})
	pod := ports.pod.Namespace + "/" + ports.pod.Name
	for name, why := range left {
		if ports.left[name] == "" {
			slog.Error("a host port does not lead to its pod", "pod", pod, "reason", why)
			w.reporter.recorder.Event(ports.pod, corev1.EventTypeWarning, servicespec.ReasonNotInstalled, name+": "+why)
		}
	}
	w.reporter.hostPort(ports.pod, true) // before the plane can have anything to say about them
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
		if again || !slices.Contains(ports.names, s.Name) {
			w.cfg.Plane.SetService(s)
		}
		if ports.left[s.Name] != "" {
			slog.Info("a host port leads to its pod again: no program of this node serves it any more", "pod", pod, "port", s.Name)
			w.reporter.recorder.Event(ports.pod, corev1.EventTypeNormal, servicespec.ReasonInstalled, s.Name+": leads to the pod, as no program of this node serves it any more")
		}
	}
	for _, name := range ports.names {
		if !slices.Contains(names, name) {
			w.cfg.Plane.DeleteService(name)
		}
	}
	ports.names, ports.left = names, left
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

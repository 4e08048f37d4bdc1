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

// listenersEvery is how often pods' host ports are compared with the ports that the node's own programs serve.
const listenersEvery = 5 * time.Second

// podPorts are the host ports of one pod.
type podPorts struct {
	pod     *corev1.Pod
	addrs   []netip.Addr
	names   []string          // in the plane
	skipped map[string]string // those that are not forwarded to the pod, with the reason
}

// SetHostPorts forwards the host ports of a pod to its addresses, except those that a program of this node serves.
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

// DeleteHostPorts removes the host ports of a pod.
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

// followListeners stops forwarding ports that programs of the node begin to serve, and forwards them again when the programs have
// stopped.
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

// settle forwards those of a pod's ports that no program of this node serves, and stops forwarding the others; with again it also
// sets those that are forwarded already. The caller holds portsMu.
func (w *Watcher) settle(ports *podPorts, again bool) {
	skipped := map[string]string{}
	list := hostPorts(ports.pod, ports.addrs, w.cfg.Node, func(h servicespec.HostPort) string {
		why := w.served(h)
		if why != "" {
			skipped[h.Name] = why
		}
		return why
	})
	pod := ports.pod.Namespace + "/" + ports.pod.Name
	for name, why := range skipped {
		if ports.skipped[name] == "" {
			slog.Error("a host port does not lead to its pod", "pod", pod, "reason", why)
			w.reporter.recorder.Event(ports.pod, corev1.EventTypeWarning, servicespec.ReasonNotInstalled, name+": "+why)
		}
	}
	w.reporter.hostPort(ports.pod, true) // before the plane can report problems of them
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
		if again || !slices.Contains(ports.names, s.Name) {
			w.cfg.Plane.SetService(s)
		}
		if ports.skipped[s.Name] != "" {
			slog.Info("a host port leads to its pod again: no program of this node serves it any more", "pod", pod, "port", s.Name)
			w.reporter.recorder.Event(ports.pod, corev1.EventTypeNormal, servicespec.ReasonInstalled, s.Name+": leads to the pod, as no program of this node serves it any more")
		}
	}
	for _, name := range ports.names {
		if !slices.Contains(names, name) {
			w.cfg.Plane.DeleteService(name)
		}
	}
	ports.names, ports.skipped = names, skipped
}

// hostPorts are services whose only backend is the pod, whether it is ready or not: a host port's client wants this pod. Ports
// for which served returns a reason are omitted. An address that this node does not have has no effect.
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
			s.Frontends[i].Here = true // a pod can name any address, also a service's
		}
		for _, addr := range addrs {
			s.Backends = append(s.Backends, service.Backend{Addr: addr, Port: h.ContainerPort, Node: node})
		}
		out = append(out, s)
	}
	return out
}

package services

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/dataplane/sockets"
)

// anyAddr stands for a pod's addresses before it has any.
var anyAddr = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}

// HostPortTaken names the first host port of a pod that the node's own programs serve, "" if there is none: forwarded to the pod,
// the port would take the connections of their clients, the API server or the node's own agent among them.
func (w *Watcher) HostPortTaken(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		return "" // its own programs serve on the node's addresses
	}
	for _, h := range servicespec.HostPorts(pod, anyAddr) {
		if why := w.served(h); why != "" {
			return why
		}
	}
	return ""
}

// served says why a host port must not be forwarded to a pod, "" if it may. A port counts as served at any of the node's
// addresses, its loopback included: a host port without an address is forwarded from there too.
func (w *Watcher) served(h servicespec.HostPort) string {
	for _, f := range h.Frontends {
		protocol, ok := protocolOf(f.Protocol)
		if f.Outside || !ok || protocol == service.SCTP {
			continue
		}
		if protocol == service.TCP {
			for _, own := range w.cfg.OwnPorts {
				if own == f.Port {
					return fmt.Sprintf("%s is for this node's own programs", f)
				}
			}
		}
		if w.cfg.Listening == nil || protocol == service.UDP && isEphemeral(f.Port) {
			continue
		}
		list, err := w.cfg.Listening(protocol, f.Port)
		if err != nil {
			slog.Warn("sockets of the node not listed: host ports are not compared with them", "port", f.Port, "err", err)
			continue
		}
		for _, l := range list {
			if at := l.Addr.Addr(); f.Addr.IsUnspecified() || at.IsUnspecified() || at == f.Addr {
				return fmt.Sprintf("%s is served at %s by a program of this node", f, l.Addr)
			}
		}
	}
	return ""
}

// isEphemeral says whether the port is in the kernel's ephemeral range: a UDP socket there may be a client's, which is soon
// closed.
func isEphemeral(port uint16) bool {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return false
	}
	var first, last uint16
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return false
	}
	return first <= port && port <= last
}

// Listening lists the sockets that listen at a port of this node.
type Listening func(service.Protocol, uint16) ([]sockets.Listener, error)

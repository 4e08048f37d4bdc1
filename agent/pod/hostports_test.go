package pod_test

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hostPorts records which pods have theirs.
type hostPorts struct {
	mu   sync.Mutex
	pods map[types.UID][]netip.Addr
}

// HostPortTaken is as on a node that serves the agent's port.
func (h *hostPorts) HostPortTaken(p *corev1.Pod) string {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort == 10250 {
				return "0.0.0.0:10250/TCP is for this node's own programs"
			}
		}
	}
	return ""
}

func (h *hostPorts) SetHostPorts(p *corev1.Pod, addrs []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pods == nil {
		h.pods = map[types.UID][]netip.Addr{}
	}
	h.pods[p.UID] = addrs
}

func (h *hostPorts) DeleteHostPorts(p *corev1.Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pods, p.UID)
}

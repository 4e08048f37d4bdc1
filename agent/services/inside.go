package services

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// apiService is the service whose endpoints are the API servers.
const apiService = corev1.NamespaceDefault + "/kubernetes"

// inside says why an address cannot be an external one of a service: connections of this node's own programs and of all pods
// to it would go to that service.
func (w *Watcher) inside(addr netip.Addr) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return servicespec.Inside{
		ServiceCIDRs: w.cfg.ServiceCIDRs, PodCIDRs: w.cfg.PodCIDRs(), APIServers: w.servers,
		Node: func(addr netip.Addr) string { return w.hosts[addr] },
	}.Reserved(addr)
}

// hostWith names a node that has an address.
func (w *Watcher) hostWith(addr netip.Addr) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hosts[addr]
}

// mayUnwrap says whether a slice's endpoints are ignored if they are at a node.
func mayUnwrap(slice *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
		return servicespec.Unwraps(ptr.Deref(p.Protocol, corev1.ProtocolTCP), uint16(ptr.Deref(p.Port, 0)))
	})
}

// serversChanged updates the API servers' addresses.
func (w *Watcher) serversChanged() {
	list, err := w.slices.GetIndexer().ByIndex(bySvc, apiService)
	if err != nil {
		return // there is no such index only before New
	}
	w.mu.Lock()
	w.servers = addressesOf(list)
	w.mu.Unlock()
	w.queue.Add(externalKey)
}

func addressesOf(slices []any) (addrs []netip.Addr) {
	for _, obj := range slices {
		for _, e := range obj.(*discoveryv1.EndpointSlice).Endpoints {
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil {
					addrs = append(addrs, addr.Unmap())
				}
			}
		}
	}
	return addrs
}

// hostsChanged updates the addresses of nodes, this one included. A nil node was removed.
func (w *Watcher) hostsChanged(name string, n *corev1.Node) {
	wanted := map[netip.Addr]bool{}
	if n != nil {
		for _, addr := range everyAddress(n) {
			wanted[addr] = true
		}
	}
	changed := false
	w.mu.Lock()
	for addr, node := range w.hosts {
		if node == name && !wanted[addr] {
			delete(w.hosts, addr)
			changed = true
		}
	}
	for addr := range wanted {
		if w.hosts[addr] == "" {
			w.hosts[addr] = name
			changed = true
		}
	}
	w.mu.Unlock()
	if changed {
		w.queue.Add(externalKey)
	}
}

// everyAddress are all addresses that a node reports, whatever their kind.
func everyAddress(n *corev1.Node) (addrs []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

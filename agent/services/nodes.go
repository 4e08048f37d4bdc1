package services

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/podnet"
)

func (w *Watcher) syncRoutes() {
	w.mu.Lock()
	peers := make([]podnet.Peer, 0, len(w.peers))
	for _, p := range w.peers {
		peers = append(peers, p)
	}
	w.mu.Unlock()
	if err := w.cfg.Router.SyncRoutes(peers); err != nil {
		slog.Error("pods of other nodes are not reachable", "err", err)
		w.queue.AddRateLimited(routesKey)
		return
	}
	w.queue.Forget(routesKey)
}

// nodeChanged updates the peers, their addresses and their down marks. This node's own mark is never set: its pods are
// reachable here even if the control plane marks the node as down.
func (w *Watcher) nodeChanged(obj any) {
	n, ok := object[*corev1.Node](obj)
	if !ok {
		return
	}
	w.hostsChanged(n.Name, n)
	if n.Name == w.cfg.Node {
		w.selfChanged(n)
		return
	}
	w.cfg.Plane.SetNodeUnwraps(n.Name, unwraps(n)) // first: the node must not be sent tunnelled packets if it cannot unwrap them
	w.cfg.Plane.SetNodeAddresses(n.Name, nodeAddresses(n))
	peer, err := peerOf(n)
	w.mu.Lock()
	old, had := w.peers[n.Name]
	if err != nil {
		delete(w.peers, n.Name)
	} else {
		w.peers[n.Name] = peer
	}
	changed := had != (err == nil) || !slices.Equal(old.PodCIDRs, peer.PodCIDRs) || !slices.Equal(old.NodeIPs, peer.NodeIPs)
	down := isDown(n)
	was, known := w.down[n.Name]
	w.down[n.Name] = down
	w.mu.Unlock()
	if changed {
		w.queue.Add(routesKey)
	}
	if was != down {
		slog.Info("node changed", "node", n.Name, "down", down)
	}
	if !known || was != down { // one that was deleted is marked as down until then
		w.cfg.Plane.SetNodeDown(n.Name, down)
	}
}

// selfChanged translates every service again when this node's zone changes.
func (w *Watcher) selfChanged(n *corev1.Node) {
	zone := n.Labels[corev1.LabelTopologyZone]
	w.mu.Lock()
	moved := w.zone != zone
	w.zone = zone
	w.mu.Unlock()
	if moved {
		w.queue.Add(everyKey)
	}
}

func (w *Watcher) nodeDeleted(obj any) {
	n, ok := object[*corev1.Node](obj)
	if !ok {
		return
	}
	w.hostsChanged(n.Name, nil)
	if n.Name == w.cfg.Node {
		return
	}
	w.mu.Lock()
	delete(w.peers, n.Name)
	delete(w.down, n.Name)
	w.mu.Unlock()
	w.queue.Add(routesKey)
	w.cfg.Plane.SetNodeDown(n.Name, true)
	w.cfg.Plane.SetNodeAddresses(n.Name, nil)
	w.cfg.Plane.SetNodeUnwraps(n.Name, true)
}

// isDown is false for a node that has not reported yet.
func isDown(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionTrue
		}
	}
	return false
}

// unwraps is false for a node that reports that no program runs at its uplinks, where tunnels end.
func unwraps(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == servicespec.ServesOutside {
			return c.Status != corev1.ConditionFalse
		}
	}
	return true
}

// nodeAddresses are the addresses that other nodes can send to.
func nodeAddresses(n *corev1.Node) (addrs []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

func peerOf(n *corev1.Node) (podnet.Peer, error) {
	p := podnet.Peer{Name: n.Name, NodeIPs: nodeAddresses(n)}
	ranges := n.Spec.PodCIDRs
	if len(ranges) == 0 {
		ranges = []string{n.Spec.PodCIDR}
	}
	for _, text := range ranges {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return podnet.Peer{}, err
		}
		p.PodCIDRs = append(p.PodCIDRs, prefix.Masked())
	}
	if len(p.NodeIPs) == 0 {
		return podnet.Peer{}, errors.New("no InternalIP")
	}
	return p, nil
}

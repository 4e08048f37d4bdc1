package allocator

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// Servers are the addresses of all API servers at the moment.
func (c Cluster) Servers() []netip.Addr {
	if c.OtherServers == nil {
		return c.APIServers
	}
	return slices.Concat(c.APIServers, c.OtherServers())
}

// Pods are all ranges of pods at the moment.
func (c Cluster) Pods() []PodRange {
	if c.AddedPodCIDRs == nil {
		return c.PodCIDRs
	}
	return slices.Concat(c.PodCIDRs, c.AddedPodCIDRs())
}

// Inside returns the cluster's own addresses according to the store.
func (k Kinds) Inside(ctx context.Context, r *resource.Registry, cluster Cluster) (servicespec.Inside, error) {
	inside := servicespec.Inside{ServiceCIDRs: cluster.ServiceCIDRs, APIServers: cluster.Servers()}
	for _, pods := range cluster.Pods() {
		inside.PodCIDRs = append(inside.PodCIDRs, pods.Prefix)
	}
	nodes, err := r.List(ctx, k.Nodes, "", resource.ListOptions{})
	if err != nil {
		return inside, err
	}
	holders := map[netip.Addr]string{}
	for _, obj := range nodes.Objects {
		node := obj.Value().(*corev1.Node)
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				holders[addr.Unmap()] = node.Name
			}
		}
	}
	inside.Node = func(addr netip.Addr) string { return holders[addr] }
	return inside, nil
}

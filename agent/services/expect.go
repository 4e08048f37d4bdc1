package services

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// Snapshot is what the API said at one time.
type Snapshot struct {
	Services     []*corev1.Service
	Slices       []*discoveryv1.EndpointSlice
	Nodes        []*corev1.Node
	Pods         []*corev1.Pod
	ServiceCIDRs []netip.Prefix
	PodCIDRs     []netip.Prefix
}

// Expect computes what a node's plane should hold by a snapshot: its services, host ports included, and the nodes that are
// down. What the node knows before the API does (a pod that has just died or begun to end) is not in it.
func (s *Snapshot) Expect(node string) (want []service.Service, down map[string]bool) {
	slices := map[string][]any{}
	for _, slice := range s.Slices {
		slices[sliceService(slice)] = append(slices[sliceService(slice)], slice)
	}
	claimed := map[netip.Addr]string{}
	for _, svc := range s.Services {
		for _, addr := range servicespec.ClusterAddrs(svc) {
			claimed[addr] = svc.Namespace + "/" + svc.Name
		}
	}
	hosts := map[netip.Addr]string{}
	for _, n := range s.Nodes {
		for _, addr := range everyAddress(n) {
			hosts[addr] = n.Name
		}
	}
	v := &view{
		node: node,
		inside: servicespec.Inside{
			ServiceCIDRs: s.ServiceCIDRs, PodCIDRs: s.PodCIDRs, APIServers: addressesOf(slices[apiService]),
			Node: func(addr netip.Addr) string { return hosts[addr] },
		}.Reserved,
		host:     func(addr netip.Addr) string { return hosts[addr] },
		draining: func(string) bool { return false },
		reserved: func(addr netip.Addr) string {
			return servicespec.Reserved(addr, s.ServiceCIDRs, func(addr netip.Addr) string { return claimed[addr] })
		},
	}
	down = map[string]bool{}
	for _, n := range s.Nodes {
		down[n.Name] = isDown(n)
		if n.Name == node {
			v.zone = n.Labels[corev1.LabelTopologyZone]
		}
	}
	for _, svc := range s.Services {
		want = append(want, v.translate(svc, slices[svc.Namespace+"/"+svc.Name]).services...)
	}
	for _, pod := range s.Pods {
		if pod.Spec.NodeName == node && !pod.Spec.HostNetwork && servicespec.Running(pod) {
			want = append(want, hostPorts(pod, servicespec.PodAddrs(pod), node, nil)...)
		}
	}
	return want, down
}

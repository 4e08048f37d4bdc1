package services

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// Verify compares the node's service maps with the API server's objects. It lists these again, and does not use the watcher's cache,
// so that a change that the watcher has missed shows. A change takes some milliseconds to reach the maps: a difference counts if it
// lasts.
func (w *Watcher) Verify(ctx context.Context, client kubernetes.Interface, have *service.Dump) (*skepv1.Verification, error) {
	s, err := takeSnapshot(ctx, client, w.cfg.Node)
	if err != nil {
		return nil, fmt.Errorf("ask the API server what the maps should hold: %w", err)
	}
	want, down := w.expect(s)
	if w.cfg.Unreachable != nil {
		maps.Copy(down, w.cfg.Unreachable())
	}
	found := &skepv1.Verification{Node: w.cfg.Node, Services: len(have.Services), Differences: []skepv1.Difference{}}
	for _, d := range service.Compare(w.cfg.Node, want, down, have) {
		found.Differences = append(found.Differences, skepv1.Difference(d))
	}
	return found, nil
}

// snapshot has all objects of the API that this node's plane is computed from, at one time.
type snapshot struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	nodes    []*corev1.Node
	pods     []*corev1.Pod // of this node
}

func takeSnapshot(ctx context.Context, client kubernetes.Interface, node string) (*snapshot, error) {
	svcs, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	endpoints, err := client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()})
	if err != nil {
		return nil, err
	}
	return &snapshot{pointers(svcs.Items), pointers(endpoints.Items), pointers(nodes.Items), pointers(pods.Items)}, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// expect computes the plane's content from a snapshot: services, host ports included, and the nodes that are down. It lacks what the
// node sees before the API does (a pod that has just failed or begun to end).
func (w *Watcher) expect(s *snapshot) (want []service.Service, down map[string]bool) {
	node := w.cfg.Node
	slices := map[string][]any{}
	for _, slice := range s.slices {
		slices[sliceService(slice)] = append(slices[sliceService(slice)], slice)
	}
	claimed := map[netip.Addr]string{}
	for _, svc := range s.services {
		for _, addr := range servicespec.ClusterAddrs(svc) {
			claimed[addr] = svc.Namespace + "/" + svc.Name
		}
	}
	hosts := map[netip.Addr]string{}
	for _, n := range s.nodes {
		for _, addr := range everyAddress(n) {
			hosts[addr] = n.Name
		}
	}
	v := &view{
		node: node,
		inside: servicespec.Inside{
			ServiceCIDRs: w.cfg.ServiceCIDRs, PodCIDRs: w.cfg.PodCIDRs(), APIServers: addressesOf(slices[apiService]),
			Node: func(addr netip.Addr) string { return hosts[addr] },
		}.Reserved,
		host:     func(addr netip.Addr) string { return hosts[addr] },
		draining: func(string) bool { return false },
		reserved: func(addr netip.Addr) string {
			return servicespec.Reserved(addr, w.cfg.ServiceCIDRs, func(addr netip.Addr) string { return claimed[addr] })
		},
	}
	down = map[string]bool{}
	for _, n := range s.nodes {
		down[n.Name] = isDown(n)
		if n.Name == node {
			v.zone = n.Labels[corev1.LabelTopologyZone]
		}
	}
	for _, svc := range s.services {
		want = append(want, v.translate(svc, slices[svc.Namespace+"/"+svc.Name]).services...)
	}
	for _, pod := range s.pods {
		if !pod.Spec.HostNetwork && servicespec.Running(pod) {
			want = append(want, hostPorts(pod, servicespec.PodAddrs(pod), node, w.served)...)
		}
	}
	return want, down
}

package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/podranges"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// maxPodRanges is how many ranges nodes' programs hold (PATH_RANGES in bpf/path.h).
const maxPodRanges = 8

// podNetwork answers the API server about pods' ranges.
type podNetwork struct {
	settings *settings
	registry *resource.Registry
	ranges   *podranges.Ranges
}

// Added are the ranges that were added.
func (p *podNetwork) Added() (added []netip.Prefix) {
	for _, r := range p.ranges.Added() {
		added = append(added, r.Prefix)
	}
	return added
}

// List returns all ranges and how much of each is in use.
func (p *podNetwork) List(ctx context.Context) (*skepv1.PodRangeList, error) {
	nodes, err := p.registry.List(ctx, kinds.Nodes, "", resource.ListOptions{})
	if err != nil {
		return nil, err
	}
	list := &skepv1.PodRangeList{}
	for i, r := range p.settings.cluster().Pods() {
		row := skepv1.PodRange{CIDR: r.Prefix, NodeMask: r.NodeMask, Parts: 1 << (r.NodeMask - r.Bits()), Added: i >= len(p.settings.pods)}
		for _, obj := range nodes.Objects {
			for _, text := range obj.Value().(*corev1.Node).Spec.PodCIDRs {
				if part, err := netip.ParsePrefix(text); err == nil && r.Contains(part.Addr()) {
					row.Used++
				}
			}
		}
		list.Ranges = append(list.Ranges, row)
	}
	return list, nil
}

// Add adds a range. One that is there already is no error, so that the command can be repeated.
func (p *podNetwork) Add(ctx context.Context, prefix netip.Prefix, client string) error {
	err := p.ranges.Add(ctx, func(added []allocator.PodRange) (allocator.PodRange, error) {
		if i := slices.IndexFunc(added, func(r allocator.PodRange) bool { return r.Prefix == prefix }); i >= 0 {
			return added[i], nil
		}
		r, err := p.settings.podRange(prefix, added)
		if err != nil {
			return r, apierrors.NewBadRequest(err.Error())
		}
		return r, p.unused(ctx, prefix)
	})
	if err == nil {
		slog.Info("Pod range added", "range", prefix, "client", client)
	}
	return err
}

// podRange is a further range of pods, whose parts are as large as those of the family's first.
func (s *settings) podRange(prefix netip.Prefix, added []allocator.PodRange) (r allocator.PodRange, err error) {
	if _, err := parseRanges("pod range", prefix.String()); err != nil {
		return r, err
	}
	all := slices.Concat(s.pods, added)
	i := slices.IndexFunc(all, func(p allocator.PodRange) bool { return p.Addr().Is4() == prefix.Addr().Is4() })
	if i < 0 {
		return r, fmt.Errorf("pod range %s: pods have no addresses of that family, as --pod-cidr is %s", prefix, s.PodCIDR)
	}
	r = allocator.PodRange{Prefix: prefix, NodeMask: all[i].NodeMask}
	switch {
	case r.NodeMask < prefix.Bits():
		return r, fmt.Errorf("pod range %s is too small: every node gets a /%d", prefix, r.NodeMask)
	case r.NodeMask-prefix.Bits() > maxNodeBits:
		return r, fmt.Errorf("pod range %s is too large for node ranges of /%d: give a /%d or smaller", prefix, r.NodeMask, r.NodeMask-maxNodeBits)
	case len(all) >= maxPodRanges:
		return r, fmt.Errorf("pod range %s: there are %d ranges, and nodes hold no more", prefix, maxPodRanges)
	}
	for _, p := range all {
		if p.Overlaps(prefix) {
			return r, fmt.Errorf("pod range %s overlaps %s, which pods have already", prefix, p.Prefix)
		}
	}
	for _, services := range s.services {
		if services.Overlaps(prefix) {
			return r, fmt.Errorf("pod range %s overlaps %s, which is of services (--service-cidr)", prefix, services)
		}
	}
	if part := s.pool.Overlaps(prefix); part != "" {
		return r, fmt.Errorf("pod range %s overlaps %s, which is of load balancers (--lb-cidr)", prefix, part)
	}
	return r, nil
}

// unused refuses a range with addresses that have another meaning: those of hosts, API servers and services.
func (p *podNetwork) unused(ctx context.Context, prefix netip.Prefix) error {
	refuse := func(addr any, whose string) error {
		return apierrors.NewBadRequest(fmt.Sprintf("pod range %s has %s in it, which is %s", prefix, addr, whose))
	}
	for _, addr := range p.settings.cluster().Servers() {
		if prefix.Contains(addr) {
			return refuse(addr, "a server's address")
		}
	}
	nodes, err := p.registry.List(ctx, kinds.Nodes, "", resource.ListOptions{})
	if err != nil {
		return err
	}
	for _, obj := range nodes.Objects {
		node := obj.Value().(*corev1.Node)
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && prefix.Contains(addr.Unmap()) {
				return refuse(addr, "an address of node "+node.Name)
			}
		}
	}
	cidrs, err := p.registry.List(ctx, kinds.ServiceCIDRs, "", resource.ListOptions{})
	if err != nil {
		return err
	}
	for _, obj := range cidrs.Objects {
		for _, text := range obj.Value().(*networkingv1.ServiceCIDR).Spec.CIDRs {
			if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Overlaps(prefix) {
				return refuse(cidr, "of services (ServiceCIDR "+obj.Value().GetName()+")")
			}
		}
	}
	services, err := p.registry.List(ctx, kinds.Services, "", resource.ListOptions{})
	if err != nil {
		return err
	}
	for _, obj := range services.Objects {
		service := obj.Value().(*corev1.Service)
		for _, addr := range servicespec.ExternalAddrs(service) {
			if prefix.Contains(addr) {
				return refuse(addr, "an external address of service "+service.Namespace+"/"+service.Name)
			}
		}
	}
	return nil
}

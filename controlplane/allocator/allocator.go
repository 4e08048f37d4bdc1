// Package allocator gives services their addresses and node ports and nodes their
// pod ranges, so that no two hold the same. A record of each is written in the
// transaction of the object that holds it, guarded against others that allocate it at the
// same time; nothing is kept in memory, and there is nothing to repair after a crash. The
// caller passes the kinds that it reads and records in.
package allocator

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// DefaultServiceCIDR is the ServiceCIDR that holds the cluster's configured ranges.
const DefaultServiceCIDR = "kubernetes"

// Cluster is the cluster's configuration as far as allocation needs it.
type Cluster struct {
	// ServiceCIDRs are the ranges of service addresses, the first one of the primary family.
	ServiceCIDRs []netip.Prefix
	// PodCIDRs are the ranges that nodes' pod ranges come from: at most one of
	// each family, the primary one first.
	PodCIDRs []PodRange
	// AddedPodCIDRs are those that were added since, of the same families; it may be nil.
	AddedPodCIDRs func() []PodRange
	// APIServers are where others reach the API, and OtherServers further ones, which come and go; it may be nil.
	APIServers   []netip.Addr
	OtherServers func() []netip.Addr
	// DenyExternalIPs refuses new external addresses of services.
	DenyExternalIPs bool
	// LoadBalancerPool are the addresses that the load-balancer loop gives to services of its class; nil: it gives none.
	LoadBalancerPool AddressPool
}

// AddressPool is a set of addresses.
type AddressPool interface {
	Contains(netip.Addr) bool
	String() string
}

// PodRange is a range that is divided into one of NodeMask bits for every node.
type PodRange struct {
	netip.Prefix
	NodeMask int
}

// Kinds are those whose objects allocation reads, and in which it records what is held.
type Kinds struct {
	Nodes, Services, IPAddresses, ServiceCIDRs *resource.Kind
}

// Allocators are those of services and nodes.
func (k Kinds) Allocators(cluster Cluster) map[*resource.Kind]resource.Allocator {
	begin := func(r *resource.Registry, tx *resource.Tx) *work {
		return &work{Kinds: k, cluster: cluster, r: r, tx: tx}
	}
	return map[*resource.Kind]resource.Allocator{
		k.Services: func(ctx context.Context, r *resource.Registry, tx *resource.Tx, part string, obj, old resource.Object) error {
			service, _ := obj.(*corev1.Service)
			before, _ := old.(*corev1.Service)
			switch part {
			case "":
				return begin(r, tx).service(ctx, service, before)
			case "status":
				return begin(r, tx).checkLoadBalancerIPs(ctx, service, before)
			}
			return nil
		},
		k.Nodes: func(ctx context.Context, r *resource.Registry, tx *resource.Tx, part string, obj, old resource.Object) error {
			if part != "" {
				return nil
			}
			node, _ := obj.(*corev1.Node)
			before, _ := old.(*corev1.Node)
			return begin(r, tx).node(ctx, node, before)
		},
	}
}

// work is what is allocated and freed in one transaction.
type work struct {
	Kinds
	cluster Cluster
	r       *resource.Registry
	tx      *resource.Tx
}

// service gives a service its addresses and node ports, and frees those that it no longer
// has. A record of each is written in the service's own transaction, guarded against
// another service that gets the same one: none is ever held twice, and none is lost when
// a process ends in between. The service is valid only with what it gets here: validation
// comes after this, as in kube-apiserver.
func (w *work) service(ctx context.Context, service, before *corev1.Service) error {
	if service == nil {
		if err := w.releaseIPs(ctx, before, nil); err != nil {
			return err
		}
		if err := w.releaseNodePorts(ctx, before); err != nil {
			return err
		}
		return w.releaseLoadBalancerIPs(ctx, nil, before)
	}
	if err := setFamilies(service, before, w.cluster.serviceFamilies()); err != nil {
		return err
	}
	if err := w.allocateIPs(ctx, service, before); err != nil {
		return err
	}
	if err := w.allocateNodePorts(ctx, service, before); err != nil {
		return err
	}
	return w.releaseLoadBalancerIPs(ctx, service, before)
}

// node gives a node its pod ranges; a deleted node's ranges are freed and its membership ends.
func (w *work) node(ctx context.Context, node, before *corev1.Node) error {
	if node != nil {
		return w.allocatePodCIDRs(ctx, node, before)
	}
	if err := EndMember(ctx, w.r.Store(), w.tx, before.Name); err != nil {
		return resource.StoreError(ctx, err)
	}
	w.tx.Ops = append(w.tx.Ops, storage.Op{Key: MemberKey(before.Name), Delete: true})
	return w.releasePodCIDRs(ctx, before)
}

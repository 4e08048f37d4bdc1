package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// loadBalancerPrefix is the prefix of the keys that say which service holds a
// load-balancer address: /skep/loadbalancers/<address>, the value is "namespace/name". A
// record is written with the status that shows its address, and deleted with the service,
// or when its type changes.
const loadBalancerPrefix = "/skep/loadbalancers/"

func loadBalancerKey(addr netip.Addr) string { return loadBalancerPrefix + addr.String() }

// LoadBalancerIPs are the addresses in the status of a service of type LoadBalancer.
func LoadBalancerIPs(service *corev1.Service) []netip.Addr {
	if service == nil || service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var addrs []netip.Addr
	for i := range service.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(service.Status.LoadBalancer.Ingress[i].IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// TakeLoadBalancerIP adds to tx that a service holds an address. If another service does,
// it returns that one's name and adds nothing. A record counts only if its service's
// status shows the address: one whose service was deleted or does not show it is taken
// over.
func (k Kinds) TakeLoadBalancerIP(ctx context.Context, r *resource.Registry, tx *resource.Tx, service *corev1.Service, addr netip.Addr) (holder string, err error) {
	key, name := loadBalancerKey(addr), service.Namespace+"/"+service.Name
	record := storage.Guard{Key: key}
	kv, err := r.Store().Get(ctx, key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return "", resource.StoreError(ctx, err)
	case string(kv.Value) == name:
		tx.Guards = append(tx.Guards, storage.Guard{Key: key, ModRevision: kv.ModRevision})
		return "", nil
	default:
		record.ModRevision = kv.ModRevision
		other, shown, err := k.showsLoadBalancerIP(ctx, r, string(kv.Value), addr)
		if err != nil || shown {
			return string(kv.Value), err
		}
		// The other service may be about to show the address again: then the service changes, and this guard fails.
		tx.Guards = append(tx.Guards, other)
	}
	tx.Guards = append(tx.Guards, record)
	tx.Ops = append(tx.Ops, storage.Op{Key: key, Value: []byte(name)})
	return "", nil
}

// showsLoadBalancerIP also returns a guard that holds as long as its answer does.
func (k Kinds) showsLoadBalancerIP(ctx context.Context, r *resource.Registry, service string, addr netip.Addr) (storage.Guard, bool, error) {
	ns, name, _ := strings.Cut(service, "/")
	guard := storage.Guard{Key: k.Services.Key(ns, name)}
	current, err := r.Fresh(ctx, k.Services, guard.Key, name)
	if apierrors.IsNotFound(err) {
		return guard, false, nil
	}
	if err != nil {
		return guard, false, err
	}
	guard.ModRevision = current.Revision
	return guard, slices.Contains(LoadBalancerIPs(current.Value().(*corev1.Service)), addr), nil
}

// ReleaseLoadBalancerIP adds to tx that a service no longer holds an address. A
// record of another service stays.
func ReleaseLoadBalancerIP(ctx context.Context, r *resource.Registry, tx *resource.Tx, service *corev1.Service, addr netip.Addr) error {
	kv, err := r.Store().Get(ctx, loadBalancerKey(addr))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("read the owner of load-balancer address %s: %w", addr, err))
	}
	if string(kv.Value) != service.Namespace+"/"+service.Name {
		return nil
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: kv.Key, ModRevision: kv.ModRevision})
	tx.Ops = append(tx.Ops, storage.Op{Key: kv.Key, Delete: true})
	return nil
}

// releaseLoadBalancerIPs frees the addresses that a service no longer shows; service is nil when it is deleted.
func (w *work) releaseLoadBalancerIPs(ctx context.Context, service, before *corev1.Service) error {
	keep := LoadBalancerIPs(service)
	for _, addr := range LoadBalancerIPs(before) {
		if slices.Contains(keep, addr) {
			continue
		}
		if err := ReleaseLoadBalancerIP(ctx, w.r, w.tx, before, addr); err != nil {
			return err
		}
	}
	return nil
}

// HoldsLoadBalancerIP says whether the record of an address names a service.
func HoldsLoadBalancerIP(ctx context.Context, r *resource.Registry, service *corev1.Service, addr netip.Addr) (bool, error) {
	kv, err := r.Store().Get(ctx, loadBalancerKey(addr))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, resource.StoreError(ctx, err)
	}
	return string(kv.Value) == service.Namespace+"/"+service.Name, nil
}

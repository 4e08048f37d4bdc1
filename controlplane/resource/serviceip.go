package resource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/storage"
)

func init() {
	Services.Allocate = allocateService
	Services.Status.Allocate = checkLoadBalancerIPs
}

// allocateService gives a service its addresses and node ports, and frees those
// that it no longer has. A record of each lands in the service's own transaction,
// guarded against another service that takes the same one: none is ever held
// twice, and none is lost when a process dies in between.
func allocateService(ctx context.Context, r *Registry, tx *Tx, obj, old Object) error {
	var service, before *corev1.Service
	if old != nil {
		before = old.(*corev1.Service)
	}
	if obj == nil {
		if err := releaseIPs(ctx, r, tx, before, nil); err != nil {
			return err
		}
		if err := releaseNodePorts(ctx, r, tx, before); err != nil {
			return err
		}
		return releaseLoadBalancerIPs(ctx, r, tx, nil, before)
	}
	service = obj.(*corev1.Service)
	if err := checkExternalIPs(ctx, r, service, before); err != nil {
		return err
	}
	if err := setFamilies(service, before, r.serviceFamilies()); err != nil {
		return err
	}
	if err := allocateIPs(ctx, r, tx, service, before); err != nil {
		return err
	}
	if err := allocateNodePorts(ctx, r, tx, service, before); err != nil {
		return err
	}
	if err := releaseLoadBalancerIPs(ctx, r, tx, service, before); err != nil {
		return err
	}
	var errs field.ErrorList
	if before == nil {
		errs = Services.ValidateCreate(service)
	} else {
		errs = Services.ValidateUpdate(service, before)
	}
	if len(errs) > 0 {
		return invalidService(service, errs)
	}
	return nil
}

// serviceFamilies are the families that services can have, the primary one first.
func (r *Registry) serviceFamilies() []corev1.IPFamily {
	var families []corev1.IPFamily
	for _, prefix := range r.config.ServiceCIDRs {
		if family := familyOf(prefix.Addr().String()); !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	return families
}

// heldIPs are the addresses for which a service has records.
func heldIPs(service *corev1.Service) []string {
	if service == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(service.Spec.ClusterIPs), func(ip string) bool { return ip == "" })
}

func allocateIPs(ctx context.Context, r *Registry, tx *Tx, service, before *corev1.Service) error {
	if service.Spec.Type != corev1.ServiceTypeExternalName && service.Spec.ClusterIP != corev1.ClusterIPNone {
		held := heldIPs(before)
		ips := make([]string, len(service.Spec.IPFamilies))
		for i, family := range service.Spec.IPFamilies {
			ip := ""
			if i < len(service.Spec.ClusterIPs) {
				ip = service.Spec.ClusterIPs[i]
			}
			if !slices.Contains(held, ip) {
				var err error
				if ip, err = allocateIP(ctx, r, tx, service, family, ip); err != nil {
					return err
				}
			}
			ips[i] = ip
		}
		service.Spec.ClusterIPs = ips
		service.Spec.ClusterIP = ips[0]
	}
	return releaseIPs(ctx, r, tx, before, heldIPs(service))
}

// allocateIP takes the address that is asked for, or any free one. The range that
// it is of must not change before the address is had: it may be about to go.
func allocateIP(ctx context.Context, r *Registry, tx *Tx, service *corev1.Service, family corev1.IPFamily, requested string) (string, error) {
	var addr netip.Addr
	var guard storage.Guard
	if requested == "" {
		var ok bool
		var err error
		if addr, guard, ok, err = r.freeServiceIP(ctx, family); err != nil {
			return "", err
		}
		if !ok {
			return "", apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: range is full", service.Name))
		}
	} else {
		var err error
		if addr, err = netip.ParseAddr(requested); err == nil {
			guard, err = r.checkServiceIP(ctx, family, addr)
		}
		if apierrors.IsInternalError(err) {
			return "", err
		}
		if err != nil {
			return "", invalidService(service, field.ErrorList{field.Invalid(pathClusterIPs, service.Spec.ClusterIPs,
				fmt.Sprintf("failed to allocate IP %v: %v", requested, err))})
		}
	}
	value, err := IPAddresses.codec().Encode(serviceIPRecord(service, addr, family))
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	key := IPAddresses.Key("", addr.String())
	tx.Guards = append(tx.Guards, storage.Guard{Key: key}, guard)
	tx.Ops = append(tx.Ops, storage.Op{Key: key, Value: value})
	return addr.String(), nil
}

// serviceIPRecord is the object with which kube-apiserver marks an address as taken.
func serviceIPRecord(service *corev1.Service, addr netip.Addr, family corev1.IPFamily) *networkingv1.IPAddress {
	record := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name:              addr.String(),
			UID:               types.UID(uuid.NewUUID()),
			CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family),
				networkingv1.LabelManagedBy:       "ipallocator.k8s.io",
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: service.Namespace, Name: service.Name,
		}},
	}
	record.SetGroupVersionKind(IPAddresses.GVK)
	return record
}

// serviceRange is a range of service addresses, and the guard that holds as long as it is one.
type serviceRange struct {
	netip.Prefix
	guard storage.Guard
}

// serviceRanges are the ranges that addresses of a family come from: those of
// the ServiceCIDR objects that are ready, the default one's first. Before there
// is a default one, the configuration stands for it.
func (r *Registry) serviceRanges(family corev1.IPFamily) []serviceRange {
	var ranges []serviceRange
	add := func(prefix netip.Prefix, guard storage.Guard) {
		if familyOf(prefix.Addr().String()) == family {
			ranges = append(ranges, serviceRange{prefix, guard})
		}
	}
	key := func(name string) string { return ServiceCIDRs.Key("", name) }
	if _, ok := r.Cache(ServiceCIDRs).Get(key(DefaultServiceCIDR)); !ok {
		for _, prefix := range r.config.ServiceCIDRs {
			add(prefix, storage.Guard{Key: key(DefaultServiceCIDR)})
		}
	}
	cidrs := ListAs[*networkingv1.ServiceCIDR](r, ServiceCIDRs, "", nil)
	slices.SortStableFunc(cidrs, func(a, b *networkingv1.ServiceCIDR) int {
		return strings.Compare(strings.TrimPrefix(a.Name, DefaultServiceCIDR), strings.TrimPrefix(b.Name, DefaultServiceCIDR))
	})
	for _, cidr := range cidrs {
		revision, err := parseRevision(cidr.ResourceVersion)
		if err != nil || cidr.DeletionTimestamp != nil || !serviceCIDRReady(cidr) {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				add(prefix, storage.Guard{Key: key(cidr.Name), ModRevision: revision})
			}
		}
	}
	return ranges
}

// serviceCIDRReady takes a range that nobody has judged for ready, as Kubernetes does.
func serviceCIDRReady(cidr *networkingv1.ServiceCIDR) bool {
	for _, condition := range cidr.Status.Conditions {
		if condition.Type == networkingv1.ServiceCIDRConditionReady {
			return condition.Status == metav1.ConditionTrue
		}
	}
	return true
}

// checkServiceIP says why an address that was asked for cannot be had. It asks
// etcd, not the cache: an address that was just freed must be free, and one of a
// range that was just made must be known.
func (r *Registry) checkServiceIP(ctx context.Context, family corev1.IPFamily, addr netip.Addr) (storage.Guard, error) {
	within, ok := r.serviceRangeOf(family, addr)
	if !ok {
		if err := r.waitForStore(ctx, ServiceCIDRs); err != nil {
			return storage.Guard{}, apierrors.NewInternalError(err)
		}
		if within, ok = r.serviceRangeOf(family, addr); !ok {
			return storage.Guard{}, errors.New("the provided network does not match the current range")
		}
	}
	if band := newAddressBand(within.Prefix); addr.Less(band.first) || band.last.Less(addr) {
		return storage.Guard{}, fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", addr, within.Prefix)
	}
	_, err := r.store.Get(ctx, IPAddresses.Key("", addr.String()))
	switch {
	case err == nil:
		return storage.Guard{}, errors.New("provided IP is already allocated")
	case errors.Is(err, storage.ErrNotFound):
		return within.guard, nil
	}
	return storage.Guard{}, apierrors.NewInternalError(fmt.Errorf("read who holds %s: %w", addr, err))
}

func (r *Registry) serviceRangeOf(family corev1.IPFamily, addr netip.Addr) (serviceRange, bool) {
	for _, within := range r.serviceRanges(family) {
		if within.Contains(addr) {
			return within, true
		}
	}
	return serviceRange{}, false
}

// freeServiceIP finds an address that the cache knows no holder of. Before it
// says that there is none, it waits until the caches have seen what was freed,
// and which ranges were made.
func (r *Registry) freeServiceIP(ctx context.Context, family corev1.IPFamily) (addr netip.Addr, guard storage.Guard, ok bool, err error) {
	taken := func(addr netip.Addr) bool {
		_, held := r.Cache(IPAddresses).Get(IPAddresses.Key("", addr.String()))
		return held
	}
	search := func() (netip.Addr, storage.Guard, bool) {
		for _, within := range r.serviceRanges(family) {
			if addr, ok := newAddressBand(within.Prefix).free(taken); ok {
				return addr, within.guard, true
			}
		}
		return netip.Addr{}, storage.Guard{}, false
	}
	if addr, guard, ok = search(); ok {
		return addr, guard, true, nil
	}
	for _, k := range []*Kind{ServiceCIDRs, IPAddresses} {
		if err := r.waitForStore(ctx, k); err != nil {
			return netip.Addr{}, storage.Guard{}, false, err
		}
	}
	addr, guard, ok = search()
	return addr, guard, ok, nil
}

// addressBand is the usable part of a range: [first, last], of which the first
// static addresses are left to those who ask for one, as long as others are free
// (KEP-3070).
type addressBand struct {
	first, last netip.Addr
	size        uint64 // capped for IPv6
	static      uint64
}

func newAddressBand(prefix netip.Prefix) addressBand {
	base := prefix.Masked().Addr()
	hostBits := min(base.BitLen()-prefix.Bits(), 62)
	total := uint64(1) << hostBits
	band := addressBand{first: base.Next(), last: addrAt(base, total-1), size: total - 1}
	if base.Is4() { // the broadcast address
		band.last, band.size = band.last.Prev(), max(total, 2)-2
	}
	if total > 16 {
		band.static = min(max(total/16, 16), 256)
	}
	band.static = min(band.static, band.size)
	return band
}

// free returns an address that is not taken, from a random place on.
func (b addressBand) free(taken func(netip.Addr) bool) (netip.Addr, bool) {
	scan := func(from, count uint64) (netip.Addr, bool) {
		if count == 0 {
			return netip.Addr{}, false
		}
		start := rand.Uint64N(count)
		for i := range count {
			if addr := addrAt(b.first, from+(start+i)%count); !taken(addr) {
				return addr, true
			}
		}
		return netip.Addr{}, false
	}
	if addr, ok := scan(b.static, b.size-b.static); ok {
		return addr, true
	}
	return scan(0, b.static)
}

// addrAt is the address n after base, within its lower 64 bits.
func addrAt(base netip.Addr, n uint64) netip.Addr {
	bytes := base.As16()
	binary.BigEndian.PutUint64(bytes[8:], binary.BigEndian.Uint64(bytes[8:])+n)
	if base.Is4() {
		return netip.AddrFrom16(bytes).Unmap()
	}
	return netip.AddrFrom16(bytes)
}

// releaseIPs frees the addresses of a service but those that it keeps. A record
// that is gone, or that names another service, is left alone.
func releaseIPs(ctx context.Context, r *Registry, tx *Tx, service *corev1.Service, keep []string) error {
	for _, ip := range heldIPs(service) {
		if slices.Contains(keep, ip) {
			continue
		}
		key := IPAddresses.Key("", ip)
		kv, err := r.store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("read who holds %s: %w", ip, err))
		}
		if !heldBy(kv, service) {
			continue
		}
		tx.Guards = append(tx.Guards, storage.Guard{Key: key, ModRevision: kv.ModRevision})
		tx.Ops = append(tx.Ops, storage.Op{Key: key, Delete: true})
	}
	return nil
}

func heldBy(kv storage.KeyValue, service *corev1.Service) bool {
	obj, err := IPAddresses.codec().Decode(kv.Value, kv.ModRevision)
	if err != nil {
		return false
	}
	record, ok := obj.(*networkingv1.IPAddress)
	if !ok || record.Spec.ParentRef == nil {
		return false
	}
	ref := record.Spec.ParentRef
	return ref.Group == "" && ref.Resource == "services" && ref.Namespace == service.Namespace && ref.Name == service.Name
}

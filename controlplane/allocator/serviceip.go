package allocator

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

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// serviceFamilies are the families that services can have, the primary one first.
func (c Cluster) serviceFamilies() []corev1.IPFamily {
	var families []corev1.IPFamily
	for _, prefix := range c.ServiceCIDRs {
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

func (w *work) allocateIPs(ctx context.Context, service, before *corev1.Service) error {
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
				if ip, err = w.allocateIP(ctx, service, family, ip); err != nil {
					return err
				}
			}
			ips[i] = ip
		}
		service.Spec.ClusterIPs = ips
		service.Spec.ClusterIP = ips[0]
	}
	return w.releaseIPs(ctx, before, heldIPs(service))
}

// allocateIP allocates the requested address, or any free one. Its range must not change
// before the commit: it may be about to be deleted.
func (w *work) allocateIP(ctx context.Context, service *corev1.Service, family corev1.IPFamily, requested string) (string, error) {
	var addr netip.Addr
	var guard storage.Guard
	if requested == "" {
		var ok bool
		var err error
		if addr, guard, ok, err = w.freeServiceIP(ctx, family); err != nil {
			return "", err
		}
		if !ok {
			return "", apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: range is full", service.Name))
		}
	} else {
		var err error
		if addr, err = netip.ParseAddr(requested); err == nil {
			guard, err = w.checkServiceIP(ctx, family, addr)
		}
		if apierrors.IsInternalError(err) {
			return "", err
		}
		if err != nil {
			return "", invalidService(service, field.ErrorList{field.Invalid(pathClusterIPs, service.Spec.ClusterIPs,
				fmt.Sprintf("failed to allocate IP %v: %v", requested, err))})
		}
	}
	value, err := w.IPAddresses.Encode(w.serviceIPRecord(service, addr, family))
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	key := w.IPAddresses.Key("", addr.String())
	w.tx.Guards = append(w.tx.Guards, storage.Guard{Key: key}, guard)
	w.tx.Ops = append(w.tx.Ops, storage.Op{Key: key, Value: value})
	return addr.String(), nil
}

// serviceIPRecord is the object with which kube-apiserver marks an address as allocated.
func (k Kinds) serviceIPRecord(service *corev1.Service, addr netip.Addr, family corev1.IPFamily) *networkingv1.IPAddress {
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
	record.SetGroupVersionKind(k.IPAddresses.GVK)
	return record
}

// serviceRange is a range of service addresses, and the guard that holds as long as the range is valid.
type serviceRange struct {
	netip.Prefix
	guard storage.Guard
}

// serviceRanges are the ranges that addresses of a family come from: those of
// the ServiceCIDR objects that are ready, the default one's first. Before the default one
// exists, the configured ranges are used.
func (w *work) serviceRanges(family corev1.IPFamily) []serviceRange {
	var ranges []serviceRange
	add := func(prefix netip.Prefix, guard storage.Guard) {
		if familyOf(prefix.Addr().String()) == family {
			ranges = append(ranges, serviceRange{prefix, guard})
		}
	}
	key := func(name string) string { return w.ServiceCIDRs.Key("", name) }
	if _, ok := w.r.Cache(w.ServiceCIDRs).Get(key(DefaultServiceCIDR)); !ok {
		for _, prefix := range w.cluster.ServiceCIDRs {
			add(prefix, storage.Guard{Key: key(DefaultServiceCIDR)})
		}
	}
	cidrs := resource.ListAs[*networkingv1.ServiceCIDR](w.r, w.ServiceCIDRs, "", nil)
	slices.SortStableFunc(cidrs, func(a, b *networkingv1.ServiceCIDR) int {
		return strings.Compare(strings.TrimPrefix(a.Name, DefaultServiceCIDR), strings.TrimPrefix(b.Name, DefaultServiceCIDR))
	})
	for _, cidr := range cidrs {
		revision, err := resource.ParseRevision(cidr.ResourceVersion)
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

// serviceCIDRReady counts a range without a Ready condition as ready, as Kubernetes does.
func serviceCIDRReady(cidr *networkingv1.ServiceCIDR) bool {
	for _, condition := range cidr.Status.Conditions {
		if condition.Type == networkingv1.ServiceCIDRConditionReady {
			return condition.Status == metav1.ConditionTrue
		}
	}
	return true
}

// checkServiceIP returns an error if a requested address cannot be allocated. It reads
// etcd, not the cache: an address that was just freed must be free, and a range that was
// just created must count.
func (w *work) checkServiceIP(ctx context.Context, family corev1.IPFamily, addr netip.Addr) (storage.Guard, error) {
	within, ok := w.serviceRangeOf(family, addr)
	if !ok {
		if err := w.r.WaitForStore(ctx, w.ServiceCIDRs); err != nil {
			return storage.Guard{}, apierrors.NewInternalError(err)
		}
		if within, ok = w.serviceRangeOf(family, addr); !ok {
			return storage.Guard{}, errors.New("the provided network does not match the current range")
		}
	}
	if band := newAddressBand(within.Prefix); addr.Less(band.first) || band.last.Less(addr) {
		return storage.Guard{}, fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", addr, within.Prefix)
	}
	_, err := w.r.Store().Get(ctx, w.IPAddresses.Key("", addr.String()))
	switch {
	case err == nil:
		return storage.Guard{}, errors.New("provided IP is already allocated")
	case errors.Is(err, storage.ErrNotFound):
		return within.guard, nil
	}
	return storage.Guard{}, apierrors.NewInternalError(fmt.Errorf("read the owner of %s: %w", addr, err))
}

func (w *work) serviceRangeOf(family corev1.IPFamily, addr netip.Addr) (serviceRange, bool) {
	for _, within := range w.serviceRanges(family) {
		if within.Contains(addr) {
			return within, true
		}
	}
	return serviceRange{}, false
}

// freeServiceIP finds an address without a holder in the cache. Before it returns that
// there is none, it waits until the caches have all freed addresses and new ranges.
func (w *work) freeServiceIP(ctx context.Context, family corev1.IPFamily) (addr netip.Addr, guard storage.Guard, ok bool, err error) {
	inUse := func(addr netip.Addr) bool {
		_, held := w.r.Cache(w.IPAddresses).Get(w.IPAddresses.Key("", addr.String()))
		return held
	}
	search := func() (netip.Addr, storage.Guard, bool) {
		for _, within := range w.serviceRanges(family) {
			if addr, ok := newAddressBand(within.Prefix).free(inUse); ok {
				return addr, within.guard, true
			}
		}
		return netip.Addr{}, storage.Guard{}, false
	}
	if addr, guard, ok = search(); ok {
		return addr, guard, true, nil
	}
	for _, k := range []*resource.Kind{w.ServiceCIDRs, w.IPAddresses} {
		if err := w.r.WaitForStore(ctx, k); err != nil {
			return netip.Addr{}, storage.Guard{}, false, err
		}
	}
	addr, guard, ok = search()
	return addr, guard, ok, nil
}

// addressBand is the usable part of a range: [first, last], of which the first static
// addresses are reserved for services that ask for one, as long as others are free
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

// free returns an address that is not in use, searching from a random place on.
func (b addressBand) free(inUse func(netip.Addr) bool) (netip.Addr, bool) {
	scan := func(from, count uint64) (netip.Addr, bool) {
		if count == 0 {
			return netip.Addr{}, false
		}
		start := rand.Uint64N(count)
		for i := range count {
			if addr := addrAt(b.first, from+(start+i)%count); !inUse(addr) {
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

// releaseIPs frees the addresses of a service, except those that it keeps. A missing
// record, or one that names another service, is ignored.
func (w *work) releaseIPs(ctx context.Context, service *corev1.Service, keep []string) error {
	for _, ip := range heldIPs(service) {
		if slices.Contains(keep, ip) {
			continue
		}
		key := w.IPAddresses.Key("", ip)
		kv, err := w.r.Store().Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("read the owner of %s: %w", ip, err))
		}
		if !w.heldBy(kv, service) {
			continue
		}
		w.tx.Guards = append(w.tx.Guards, storage.Guard{Key: key, ModRevision: kv.ModRevision})
		w.tx.Ops = append(w.tx.Ops, storage.Op{Key: key, Delete: true})
	}
	return nil
}

func (k Kinds) heldBy(kv storage.KeyValue, service *corev1.Service) bool {
	obj, err := k.IPAddresses.Decode(kv)
	if err != nil {
		return false
	}
	record, ok := obj.Value().(*networkingv1.IPAddress)
	if !ok || record.Spec.ParentRef == nil {
		return false
	}
	ref := record.Spec.ParentRef
	return ref.Group == "" && ref.Resource == "services" && ref.Namespace == service.Namespace && ref.Name == service.Name
}

package resource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/storage"
)

// podCIDRPrefix is above the keys that say which node holds a pod range: the
// key ends in the range with its slash written as a dash, the value is the
// node's name.
const podCIDRPrefix = "/skep/podcidrs/"

func init() { Nodes.Allocate = allocatePodCIDR }

func podCIDRKey(prefix netip.Prefix) string {
	return fmt.Sprintf("%s%s-%d", podCIDRPrefix, prefix.Addr(), prefix.Bits())
}

// allocatePodCIDR gives a new node a pod range that no other node holds, or the
// one that it asks for, and frees it with the node. A range's key and the node
// land in one transaction, so a range is held exactly as long as its node exists.
func allocatePodCIDR(ctx context.Context, r *Registry, tx *Tx, obj, old Object) error {
	if obj == nil {
		return releasePodCIDR(ctx, r, tx, old.(*corev1.Node))
	}
	node := obj.(*corev1.Node)
	if old != nil && old.(*corev1.Node).Spec.PodCIDR != "" {
		return nil // Validation refuses to change a range once it is set.
	}
	if !r.config.PodCIDR.IsValid() && node.Spec.PodCIDR == "" {
		return nil
	}
	prefix, err := choosePodCIDR(ctx, r, node)
	if err != nil {
		return err
	}
	if node.Spec.PodCIDR == "" {
		node.Spec.PodCIDR = prefix.String()
	}
	if len(node.Spec.PodCIDRs) == 0 {
		node.Spec.PodCIDRs = []string{node.Spec.PodCIDR}
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: podCIDRKey(prefix)})
	tx.Ops = append(tx.Ops, storage.Op{Key: podCIDRKey(prefix), Value: []byte(node.Name)})
	return nil
}

// choosePodCIDR returns the range that the node asks for, if it is free, or else
// any free one. Another node may take it first, which the guard notices.
func choosePodCIDR(ctx context.Context, r *Registry, node *corev1.Node) (netip.Prefix, error) {
	if node.Spec.PodCIDR != "" {
		return requestedPodCIDR(ctx, r, node)
	}
	taken := podCIDRHolders(r, node)
	for waited := false; ; {
		prefix, ok := freeSubnet(r.config.PodCIDR, r.config.NodeMask, taken)
		switch {
		case ok:
			// The cache may not know of this one's holder yet.
			holder, err := podCIDRHolder(ctx, r, prefix)
			if err != nil || holder.Key == "" {
				return prefix, err
			}
			taken[prefix] = string(holder.Value)
		case waited:
			return netip.Prefix{}, apierrors.NewInternalError(fmt.Errorf(
				"no pod range of /%d is left in %s for node %q: delete nodes that are gone, or use a larger pod range",
				r.config.NodeMask, r.config.PodCIDR, node.Name))
		default:
			// Nor of those that were freed.
			if err := r.waitForStore(ctx, Nodes); err != nil {
				return netip.Prefix{}, err
			}
			waited, taken = true, podCIDRHolders(r, node)
		}
	}
}

// podCIDRHolders are the ranges of all other nodes, as the cache knows them.
func podCIDRHolders(r *Registry, node *corev1.Node) map[netip.Prefix]string {
	holders := map[netip.Prefix]string{}
	for _, other := range ListAs[*corev1.Node](r, Nodes, "", nil) {
		if prefix, err := netip.ParsePrefix(other.Spec.PodCIDR); err == nil && other.Name != node.Name {
			holders[prefix.Masked()] = other.Name
		}
	}
	return holders
}

// podCIDRHolder reads the record of a range from etcd; it has no key if there is none.
func podCIDRHolder(ctx context.Context, r *Registry, prefix netip.Prefix) (storage.KeyValue, error) {
	kv, err := r.store.Get(ctx, podCIDRKey(prefix))
	if errors.Is(err, storage.ErrNotFound) {
		return storage.KeyValue{}, nil
	}
	if err != nil {
		return storage.KeyValue{}, apierrors.NewInternalError(fmt.Errorf("read who holds pod range %s: %w", prefix, err))
	}
	return kv, nil
}

// requestedPodCIDR refuses a range that overlaps one that another node holds.
func requestedPodCIDR(ctx context.Context, r *Registry, node *corev1.Node) (netip.Prefix, error) {
	refuse := func(reason string) (netip.Prefix, error) {
		return netip.Prefix{}, apierrors.NewInvalid(Nodes.GVK.GroupKind(), node.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "podCIDR"), node.Spec.PodCIDR, reason)})
	}
	prefix, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return refuse("must be a valid address range")
	}
	prefix = prefix.Masked()
	// The guard covers this very range only, so the cache must know all others.
	if err := r.waitForStore(ctx, Nodes); err != nil {
		return netip.Prefix{}, err
	}
	for held, holder := range podCIDRHolders(r, node) {
		if held.Overlaps(prefix) {
			return refuse(fmt.Sprintf("overlaps %s, which node %q holds", held, holder))
		}
	}
	return prefix, nil
}

// freeSubnet picks a subnet of the given mask that overlaps no taken one,
// starting at a random place so that nodes which join at once seldom collide.
func freeSubnet[V any](within netip.Prefix, mask int, taken map[netip.Prefix]V) (netip.Prefix, bool) {
	if mask < within.Bits() || mask > within.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	count := uint64(1) << min(mask-within.Bits(), 32)
	start := rand.Uint64N(count)
	odd := make([]netip.Prefix, 0) // taken ranges of other sizes, which single nodes asked for
	for prefix := range taken {
		if prefix.Bits() != mask {
			odd = append(odd, prefix)
		}
	}
	for i := range count {
		subnet := subnetAt(within, mask, (start+i)%count)
		if _, ok := taken[subnet]; !ok && !overlapsAny(subnet, odd) {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

func overlapsAny(prefix netip.Prefix, others []netip.Prefix) bool {
	for _, other := range others {
		if prefix.Overlaps(other) {
			return true
		}
	}
	return false
}

// subnetAt is the n-th subnet of the given mask.
func subnetAt(within netip.Prefix, mask int, n uint64) netip.Prefix {
	base := within.Masked().Addr()
	addr := base.As16()
	shift := base.BitLen() - mask
	// Adding from the lowest byte up; shift may be any number of bits.
	carry := uint64(0)
	for i := 15; i >= 0 && (n != 0 || carry != 0 || shift > 0); i-- {
		if shift >= 8 {
			shift -= 8
			continue
		}
		part := (n << shift) & 0xff
		n >>= 8 - shift
		shift = 0
		sum := uint64(addr[i]) + part + carry
		addr[i], carry = byte(sum), sum>>8
	}
	out := netip.AddrFrom16(addr)
	if base.Is4() {
		out = out.Unmap()
	}
	return netip.PrefixFrom(out, mask)
}

// releasePodCIDR frees the node's range if the node is the one that holds it.
func releasePodCIDR(ctx context.Context, r *Registry, tx *Tx, node *corev1.Node) error {
	prefix, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return nil // The node never held one.
	}
	kv, err := podCIDRHolder(ctx, r, prefix.Masked())
	if err != nil || kv.Key == "" || string(kv.Value) != node.Name {
		return err
	}
	tx.Guards = append(tx.Guards, storage.Guard{Key: kv.Key, ModRevision: kv.ModRevision})
	tx.Ops = append(tx.Ops, storage.Op{Key: kv.Key, Delete: true})
	return nil
}

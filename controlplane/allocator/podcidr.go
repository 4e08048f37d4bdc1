package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// podCIDRPrefix is the prefix of the keys that say which node holds a pod range: the
// key ends in the range with its slash written as a dash, the value is the
// node's name.
const podCIDRPrefix = "/skep/podcidrs/"

// oddPodCIDRKey changes whenever a node gets a range that is not one of those that
// PodRanges are divided into. Such an odd range can overlap one that has another key: an
// allocation of a regular range guards that no odd one was allocated meanwhile, and an
// allocation of an odd range that no range was.
const oddPodCIDRKey = "/skep/podcidrs-odd"

func podCIDRKey(prefix netip.Prefix) string {
	return fmt.Sprintf("%s%s-%d", podCIDRPrefix, prefix.Addr(), prefix.Bits())
}

func podCIDROfKey(key string) (netip.Prefix, error) {
	text := strings.TrimPrefix(key, podCIDRPrefix)
	if i := strings.LastIndexByte(text, '-'); i >= 0 {
		text = text[:i] + "/" + text[i+1:]
	}
	return netip.ParsePrefix(text)
}

// allocatePodCIDRs gives a new node a pod range of each family that no other node holds,
// or the ranges that it asks for, and frees them with the node. The keys of all its
// ranges and the node are written in one transaction, so a range is held exactly as long
// as its node exists. A node that has ranges keeps them, also after the cluster has
// gained a family.
func (w *work) allocatePodCIDRs(ctx context.Context, node, before *corev1.Node) error {
	if before != nil && before.Spec.PodCIDR != "" {
		return nil // Validation refuses to change a range once it is set.
	}
	a := podCIDRAllocation{work: w, node: node}
	if asked := podCIDRsOf(node); len(asked) > 0 {
		if err := a.allocateRequested(ctx, asked); err != nil {
			return err
		}
	} else if err := a.allocateFree(ctx); err != nil {
		return err
	}
	if len(a.ranges) == 0 {
		return nil
	}
	node.Spec.PodCIDRs = make([]string, len(a.ranges))
	for i, prefix := range a.ranges {
		node.Spec.PodCIDRs[i] = prefix.String()
		w.tx.Guards = append(w.tx.Guards, storage.Guard{Key: podCIDRKey(prefix)})
		w.tx.Ops = append(w.tx.Ops, storage.Op{Key: podCIDRKey(prefix), Value: []byte(node.Name)})
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	w.tx.Guards = append(w.tx.Guards, a.guards...)
	w.tx.Ops = append(w.tx.Ops, a.ops...)
	return nil
}

// podCIDRsOf are the ranges that a node has, or asks for.
func podCIDRsOf(node *corev1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}

// podCIDRAllocation is the allocation in one transaction.
type podCIDRAllocation struct {
	*work
	node   *corev1.Node
	ranges []netip.Prefix
	guards []storage.Guard
	ops    []storage.Op
}

// allocateFree allocates a range of each family. If another node gets one first, the guard fails.
func (a *podCIDRAllocation) allocateFree(ctx context.Context) error {
	if len(a.cluster.PodCIDRs) == 0 {
		return nil
	}
	if err := a.guardCut(ctx); err != nil {
		return err
	}
	all := a.cluster.Pods()
	for _, first := range a.cluster.PodCIDRs {
		within := slices.DeleteFunc(slices.Clone(all), func(r PodRange) bool { return r.Addr().Is4() != first.Addr().Is4() })
		prefix, err := a.free(ctx, within)
		if err != nil {
			return err
		}
		a.ranges = append(a.ranges, prefix)
	}
	return nil
}

// guardCut makes sure that the cache has all odd ranges, and that no other is allocated before the commit.
func (a *podCIDRAllocation) guardCut(ctx context.Context) error {
	guard, err := a.odd(ctx)
	if err != nil {
		return err
	}
	a.guards = append(a.guards, guard)
	return a.r.WaitUntil(ctx, a.Nodes, guard.ModRevision)
}

// odd is a guard on the current state of oddPodCIDRKey.
func (a *podCIDRAllocation) odd(ctx context.Context) (storage.Guard, error) {
	kv, err := a.r.Store().Get(ctx, oddPodCIDRKey)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return storage.Guard{}, resource.StoreError(ctx, err)
	}
	return storage.Guard{Key: oddPodCIDRKey, ModRevision: kv.ModRevision}, nil
}

// free is a part of the first range that has one left.
func (a *podCIDRAllocation) free(ctx context.Context, ranges []PodRange) (netip.Prefix, error) {
	holders := a.holders()
	for waited := false; ; {
		prefix, ok := firstFree(ranges, holders)
		switch {
		case ok:
			// The cache may not have this range's holder yet.
			holder, err := podCIDRHolder(ctx, a.r.Store(), prefix)
			if err != nil || holder.Key == "" {
				return prefix, err
			}
			holders[prefix] = string(holder.Value)
		case waited:
			return netip.Prefix{}, apierrors.NewInternalError(fmt.Errorf(
				"no free pod range of %s for node %q: add a range with `skep network add-pod-range`, or delete nodes that no longer exist",
				describeFull(ranges), a.node.Name))
		default:
			// Nor the release of others.
			if err := a.r.WaitForStore(ctx, a.Nodes); err != nil {
				return netip.Prefix{}, err
			}
			waited, holders = true, a.holders()
		}
	}
}

// holders are the ranges of all other nodes in the cache, and their nodes.
func (a *podCIDRAllocation) holders() map[netip.Prefix]string {
	holders := map[netip.Prefix]string{}
	for _, other := range resource.ListAs[*corev1.Node](a.r, a.Nodes, "", nil) {
		if other.Name == a.node.Name {
			continue
		}
		for _, text := range podCIDRsOf(other) {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				holders[prefix.Masked()] = other.Name
			}
		}
	}
	return holders
}

// podCIDRHolder reads the record of a range from etcd; it has no key if there is none.
func podCIDRHolder(ctx context.Context, store storage.Interface, prefix netip.Prefix) (storage.KeyValue, error) {
	kv, err := store.Get(ctx, podCIDRKey(prefix))
	if errors.Is(err, storage.ErrNotFound) {
		return storage.KeyValue{}, nil
	}
	if err != nil {
		return storage.KeyValue{}, apierrors.NewInternalError(fmt.Errorf("read the owner of pod range %s: %w", prefix, err))
	}
	return kv, nil
}

// allocateRequested allocates the ranges that the node asks for, unless they overlap
// another node's. It reads the records from etcd, and guards that no other was added
// since.
func (a *podCIDRAllocation) allocateRequested(ctx context.Context, asked []string) error {
	odd, err := a.odd(ctx)
	if err != nil {
		return err
	}
	kvs, revision, err := a.r.Store().List(ctx, podCIDRPrefix)
	if err != nil {
		return resource.StoreError(ctx, err)
	}
	held := make(map[netip.Prefix]string, len(kvs))
	for _, kv := range kvs {
		if prefix, err := podCIDROfKey(kv.Key); err == nil {
			held[prefix] = string(kv.Value)
		}
	}
	for i, text := range asked {
		path := field.NewPath("spec", "podCIDRs").Index(i)
		refuse := func(reason string) error {
			return apierrors.NewInvalid(a.Nodes.GVK.GroupKind(), a.node.Name, field.ErrorList{field.Invalid(path, text, reason)})
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return refuse("must be a valid address range")
		}
		prefix = prefix.Masked()
		if within := a.cluster.Pods(); !slices.ContainsFunc(within, func(r PodRange) bool { return r.Contains(prefix.Addr()) && r.NodeMask == prefix.Bits() }) {
			return refuse("is not one of the parts that the cluster's pod ranges are cut into: " + describeRanges(within))
		}
		for other, holder := range held {
			if other.Overlaps(prefix) {
				return refuse(fmt.Sprintf("overlaps %s, which node %q holds", other, holder))
			}
		}
		a.ranges = append(a.ranges, prefix)
	}
	a.guards = append(a.guards, odd, storage.Guard{Key: podCIDRPrefix, ModRevision: revision, Below: true})
	a.ops = append(a.ops, storage.Op{Key: oddPodCIDRKey, Value: []byte(a.node.Name)})
	return nil
}

func describeRanges(ranges []PodRange) string {
	var parts []string
	for _, r := range ranges {
		parts = append(parts, fmt.Sprintf("a /%d of %s", r.NodeMask, r.Prefix))
	}
	return strings.Join(parts, ", ")
}

func describeFull(ranges []PodRange) string {
	var parts []string
	for _, r := range ranges {
		parts = append(parts, fmt.Sprintf("/%d in %s", r.NodeMask, r.Prefix))
	}
	return strings.Join(parts, " or ")
}

func firstFree(ranges []PodRange, holders map[netip.Prefix]string) (netip.Prefix, bool) {
	for _, within := range ranges {
		if prefix, ok := freeSubnet(within.Prefix, within.NodeMask, holders); ok {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// freeSubnet picks a subnet of the given mask that overlaps none in use,
// starting at a random place so that nodes which join at once seldom collide.
func freeSubnet[V any](within netip.Prefix, mask int, inUse map[netip.Prefix]V) (netip.Prefix, bool) {
	if mask < within.Bits() || mask > within.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	count := uint64(1) << min(mask-within.Bits(), 32)
	start := rand.Uint64N(count)
	odd := make([]netip.Prefix, 0) // ranges in use of other sizes, which single nodes asked for
	for prefix := range inUse {
		if prefix.Bits() != mask {
			odd = append(odd, prefix)
		}
	}
	for i := range count {
		subnet := subnetAt(within, mask, (start+i)%count)
		if _, ok := inUse[subnet]; !ok && !overlapsAny(subnet, odd) {
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

// releasePodCIDRs frees those of the node's ranges that are recorded as the node's.
func (w *work) releasePodCIDRs(ctx context.Context, node *corev1.Node) error {
	for _, text := range podCIDRsOf(node) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			continue // The node never held it.
		}
		kv, err := podCIDRHolder(ctx, w.r.Store(), prefix.Masked())
		if err != nil {
			return err
		}
		if kv.Key == "" || string(kv.Value) != node.Name {
			continue
		}
		w.tx.Guards = append(w.tx.Guards, storage.Guard{Key: kv.Key, ModRevision: kv.ModRevision})
		w.tx.Ops = append(w.tx.Ops, storage.Op{Key: kv.Key, Delete: true})
	}
	return nil
}

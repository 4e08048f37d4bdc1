package allocator_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

func TestPodRanges(t *testing.T) {
	cfg := clusterWith("10.96.0.0/16")
	cfg.PodCIDRs = podRanges("10.244.0.0/22", 24)
	var added atomic.Pointer[[]allocator.PodRange]
	added.Store(&[]allocator.PodRange{})
	cfg.AddedPodCIDRs = func() []allocator.PodRange { return *added.Load() }
	r := allocationRegistry(t, allocationEtcd(t), cfg)
	add := func(name, podCIDR string) (*corev1.Node, error) {
		node, err := r.Create(t.Context(), kinds.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podCIDR},
		}, resource.CreateOptions{})
		if err != nil {
			return nil, err
		}
		return node.(*corev1.Node), nil
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil || node.Spec.PodCIDR != "10.244.1.0/24" {
		t.Fatalf("%+v, %v", node, err)
	}
	if _, err := add("overlaps", "10.244.1.0/24"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `overlaps 10.244.1.0/24, which node "asks" holds`) {
		t.Errorf("a range that another has: %v", err)
	}
	// Every host routes a node's range to the node: the range must not contain addresses of others, such as the API server's.
	for _, podCIDR := range []string{"8.0.0.0/7", "0.0.0.0/0", "10.96.0.0/24", "198.18.0.1/32", "10.245.0.0/24", "10.244.0.0/22", "10.244.2.0/23", "10.244.2.128/25", "fd00::/64"} {
		if _, err := add("outside", podCIDR); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a /24 of 10.244.0.0/22") {
			t.Errorf("%s: %v", podCIDR, err)
		}
	}
	for i := range 3 {
		node, err := add(fmt.Sprintf("node%d", i), "")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(node.Spec.PodCIDRs, []string{node.Spec.PodCIDR}) {
			t.Errorf("podCIDR %s, podCIDRs %v", node.Spec.PodCIDR, node.Spec.PodCIDRs)
		}
	}
	if _, err := add("toomany", ""); err == nil || !strings.Contains(err.Error(), "no free pod range of /24 in 10.244.0.0/22") {
		t.Errorf("a fifth node: %v", err)
	}
	added.Store(&[]allocator.PodRange{{Prefix: netip.MustParsePrefix("10.250.0.0/24"), NodeMask: 24}, {Prefix: netip.MustParsePrefix("fd00::/64"), NodeMask: 64}})
	if node, err := add("more", ""); err != nil || !slices.Equal(node.Spec.PodCIDRs, []string{"10.250.0.0/24"}) {
		t.Errorf("a fifth node, once a range was added: %+v, %v", node, err)
	}
	if _, err := add("toomany", ""); err == nil || !strings.Contains(err.Error(), "no free pod range of /24 in 10.244.0.0/22 or /24 in 10.250.0.0/24") {
		t.Errorf("a sixth node: %v", err)
	}
	if _, _, err := r.Delete(t.Context(), kinds.Nodes, "", "asks", nil); err != nil {
		t.Fatal(err)
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil {
		t.Errorf("a freed range: %+v, %v", node, err)
	}
	checkRecords(t, r)
}

// TestPodRangesOfBothFamilies also covers a cluster that gains a family: nodes keep their ranges.
func TestPodRangesOfBothFamilies(t *testing.T) {
	store := allocationEtcd(t)
	cfg := clusterWith("10.96.0.0/16")
	cfg.PodCIDRs = podRanges("10.244.0.0/22", 24)
	before := allocationRegistry(t, store, cfg)
	cfg.PodCIDRs = append(cfg.PodCIDRs, podRanges("fd00:10:244::/62", 64)...)
	r := allocationRegistry(t, store, cfg)
	add := func(r *resource.Registry, name string, asked ...string) (*corev1.Node, error) {
		node, err := r.Create(t.Context(), kinds.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: asked},
		}, resource.CreateOptions{})
		if err != nil {
			return nil, err
		}
		return node.(*corev1.Node), nil
	}
	old, err := add(before, "old")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := r.Modify(t.Context(), kinds.Nodes, "", "", "old", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		node := current.DeepCopyObject().(*corev1.Node)
		node.Labels = map[string]string{"a": "b"}
		return node, nil
	})
	if err != nil || !slices.Equal(kept.(*corev1.Node).Spec.PodCIDRs, old.Spec.PodCIDRs) {
		t.Errorf("the old node had %v and has %v (%v)", old.Spec.PodCIDRs, kept, err)
	}
	asked := []string{"10.244.2.0/24", "fd00:10:244:2::/64"}
	for i := range 2 {
		node, err := add(r, fmt.Sprintf("node%d", i))
		if err != nil {
			t.Fatal(err)
		}
		four, six := netip.MustParsePrefix(node.Spec.PodCIDRs[0]), netip.MustParsePrefix(node.Spec.PodCIDRs[1])
		if node.Spec.PodCIDR != node.Spec.PodCIDRs[0] || !cfg.PodCIDRs[0].Contains(four.Addr()) || four.Bits() != 24 ||
			!cfg.PodCIDRs[1].Contains(six.Addr()) || six.Bits() != 64 {
			t.Errorf("node has %q and %v", node.Spec.PodCIDR, node.Spec.PodCIDRs)
		}
	}
	held := map[string]bool{}
	for _, obj := range stored(t, r, kinds.Nodes) {
		for _, podCIDR := range obj.(*corev1.Node).Spec.PodCIDRs {
			held[podCIDR] = true
		}
	}
	// Three of four IPv4 ranges are allocated: a request for the last one succeeds, and one more node fails.
	for i := range 4 {
		if cidr := fmt.Sprintf("10.244.%d", i); !held[cidr+".0/24"] {
			asked[0] = cidr + ".0/24"
		}
		if cidr := allocator.SubnetAt(cfg.PodCIDRs[1].Prefix, 64, uint64(i)).String(); !held[cidr] {
			asked[1] = cidr
		}
	}
	node, err := add(r, "asks", asked...)
	if err != nil || !slices.Equal(node.Spec.PodCIDRs, asked) {
		t.Errorf("asked for %v: %+v, %v", asked, node, err)
	}
	if _, err := add(r, "toomany"); err == nil || !strings.Contains(err.Error(), "no free pod range of /24") {
		t.Errorf("a fifth node: %v", err)
	}
	checkRecords(t, r)
}

// TestPodRangesOfTwoSizesAtOnce has nodes ask at once for ranges that overlap without being equal, at two control planes with different
// node masks, while other nodes get any range.
func TestPodRangesOfTwoSizesAtOnce(t *testing.T) {
	store := allocationEtcd(t)
	cfg, larger := clusterWith("10.96.0.0/16"), clusterWith("10.96.0.0/16")
	cfg.PodCIDRs = podRanges("10.244.0.0/26", 28) // four ranges
	larger.PodCIDRs = podRanges("10.244.0.0/26", 27)
	planes := []*resource.Registry{allocationRegistry(t, store, cfg), allocationRegistry(t, store, larger)}
	for round := range 25 {
		var group sync.WaitGroup
		for i, asked := range []string{"10.244.0.16/28", "10.244.0.0/27", "10.244.0.32/28", "10.244.0.32/27", "", ""} {
			group.Go(func() {
				plane := planes[i%2]
				if asked == "" {
					plane = planes[0]
				}
				_, err := plane.Create(t.Context(), kinds.Nodes, &corev1.Node{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)}, Spec: corev1.NodeSpec{PodCIDR: asked},
				}, resource.CreateOptions{})
				full := apierrors.IsInternalError(err) && strings.Contains(err.Error(), "no free pod range of /28")
				overlaps := apierrors.IsInvalid(err) && strings.Contains(err.Error(), "overlaps")
				if err != nil && !full && !overlaps {
					t.Errorf("%q: %v", asked, err)
				}
			})
		}
		group.Wait()
		nodes := stored(t, planes[0], kinds.Nodes)
		if len(nodes) == 0 {
			t.Fatal("nobody got a range")
		}
		for i, a := range nodes {
			for _, b := range nodes[:i] {
				x, y := a.(*corev1.Node).Spec.PodCIDR, b.(*corev1.Node).Spec.PodCIDR
				if netip.MustParsePrefix(x).Overlaps(netip.MustParsePrefix(y)) {
					t.Fatalf("round %d: %s has %s and %s has %s", round, a.GetName(), x, b.GetName(), y)
				}
			}
		}
		checkRecords(t, planes[0])
		for _, node := range nodes {
			if _, _, err := planes[0].Delete(t.Context(), kinds.Nodes, "", node.GetName(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodRanges(t *testing.T) {
	cfg := clusterWith("10.96.0.0/16")
	cfg.PodCIDR = netip.MustParsePrefix("10.244.0.0/22")
	r := allocationRegistry(t, allocationEtcd(t), cfg)
	add := func(name, podCIDR string) (*corev1.Node, error) {
		node, err := r.Create(t.Context(), Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podCIDR},
		}, CreateOptions{})
		if err != nil {
			return nil, err
		}
		return node.(*corev1.Node), nil
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil || node.Spec.PodCIDR != "10.244.1.0/24" {
		t.Fatalf("%+v, %v", node, err)
	}
	for _, podCIDR := range []string{"10.244.1.0/24", "10.244.1.128/25", "10.244.0.0/22"} {
		if _, err := add("overlaps", podCIDR); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `overlaps 10.244.1.0/24, which node "asks" holds`) {
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
	if _, err := add("toomany", ""); err == nil || !strings.Contains(err.Error(), "no pod range of /24 is left in 10.244.0.0/22") {
		t.Errorf("a fifth node: %v", err)
	}
	if _, _, err := r.Delete(t.Context(), Nodes, "", "asks", nil); err != nil {
		t.Fatal(err)
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil {
		t.Errorf("a freed range: %+v, %v", node, err)
	}
	checkRecords(t, r)
}

func TestSubnets(t *testing.T) {
	for _, tc := range []struct {
		within string
		mask   int
		n      uint64
		want   string
	}{
		{"10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"10.0.0.0/8", 24, 257, "10.1.1.0/24"},
		{"10.244.0.0/22", 26, 5, "10.244.1.64/26"},
		{"10.244.0.0/24", 32, 7, "10.244.0.7/32"},
		{"fd00::/48", 64, 0x1234, "fd00:0:0:1234::/64"},
		{"fd00::/112", 120, 3, "fd00::300/120"},
	} {
		if got := subnetAt(netip.MustParsePrefix(tc.within), tc.mask, tc.n); got.String() != tc.want {
			t.Errorf("subnet %d of /%d in %s is %s, want %s", tc.n, tc.mask, tc.within, got, tc.want)
		}
	}
}

package node

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// A node's two InternalIPs have the same merge key, so a plain patch would add them again each time.
func TestStatusPatchKeepsAddressesOfBothFamilies(t *testing.T) {
	n := &Node{cfg: Config{Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")}}}
	status := &corev1.NodeStatus{
		Addresses: n.addresses(),
		Capacity:  corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")},
	}
	stored := []byte(`{"status":{"addresses":[{"type":"ExternalIP","address":"198.51.100.1"}]}}`)
	for range 2 {
		patch, err := statusPatch(status)
		if err != nil {
			t.Fatal(err)
		}
		if stored, err = strategicpatch.StrategicMergePatch(stored, patch, corev1.Node{}); err != nil {
			t.Fatal(err)
		}
	}
	var got corev1.Node
	if err := json.Unmarshal(stored, &got); err != nil {
		t.Fatal(err)
	}
	want := []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.11"},
		{Type: corev1.NodeInternalIP, Address: "2001:db8::11"},
		{Type: corev1.NodeHostName, Address: "n1"},
	}
	if !slices.Equal(got.Status.Addresses, want) {
		t.Errorf("addresses after two patches: %v, want %v", got.Status.Addresses, want)
	}
	if q := got.Status.Capacity[corev1.ResourcePods]; q.Value() != 110 {
		t.Errorf("the rest of the status is lost: %s", stored)
	}
}

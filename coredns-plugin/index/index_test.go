package index

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sort"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAnyHistoryGivesTheSameIndex compares an index after random changes with one that
// got only the final state.
func TestAnyHistoryGivesTheSameIndex(t *testing.T) {
	for seed := uint64(0); seed < 200; seed++ {
		r := rand.New(rand.NewPCG(seed, 1))
		lived := New()
		services := map[string]*corev1.Service{}
		slices := map[string]*discoveryv1.EndpointSlice{}
		for range 60 {
			switch name := fmt.Sprint("s", r.IntN(3)); r.IntN(4) {
			case 0:
				services[name] = randomService(r, name)
				lived.PutService(services[name])
			case 1:
				delete(services, name)
				lived.DeleteService("ns", name)
			case 2:
				slice := randomSlice(r, fmt.Sprint("slice", r.IntN(5)), name)
				slices[slice.Name] = slice
				lived.PutSlice(slice)
			case 3:
				slice := fmt.Sprint("slice", r.IntN(5))
				delete(slices, slice)
				lived.DeleteSlice("ns", slice)
			}
		}
		fresh := New()
		for _, s := range services {
			fresh.PutService(s)
		}
		for _, s := range slices {
			fresh.PutSlice(s)
		}
		if got, want := dump(lived), dump(fresh); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\ngot  %v\nwant %v", seed, got, want)
		}
	}
}

func TestEveryOwnerIsASnapshotInForce(t *testing.T) {
	x := New()
	x.PutService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}})
	x.PutService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.2"}})
	if got := x.Owner(netip.MustParseAddr("10.96.0.1")); got != nil {
		t.Errorf("the old address still has owners %v", got)
	}
	got := x.Owner(netip.MustParseAddr("10.96.0.2"))
	if len(got) != 1 || got[0].Service != x.Service("ns", "a") {
		t.Errorf("owners of the new address: %v", got)
	}
	x.DeleteService("ns", "a")
	if len(x.sources) != 0 {
		t.Errorf("sources are left after all was deleted: %v", x.sources)
	}
}

func TestAddrLabelRoundTrip(t *testing.T) {
	for _, text := range []string{"10.244.1.5", "0.0.0.0", "255.255.255.255", "fd00:244::9", "::1", "fe80::", "1:2:3:4:5:6:7:8"} {
		addr := netip.MustParseAddr(text)
		label := AddrLabel(addr)
		if got, ok := ParseAddrLabel(label); !ok || got != addr {
			t.Errorf("%s -> %s -> %v %v", text, label, got, ok)
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			t.Errorf("%s is not a DNS label", label)
		}
	}
	for _, bad := range []string{"", "web-0", "a-b-c-d", "1-2-3", "300-1-1-1"} {
		if got, ok := ParseAddrLabel(bad); ok {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}

func randomService(r *rand.Rand, name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	switch r.IntN(3) {
	case 0:
		s.Spec.ClusterIP = corev1.ClusterIPNone
	case 1:
		s.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", r.IntN(4))
	case 2:
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "x.example."
	}
	s.Spec.Ports = []corev1.ServicePort{{Name: "p", Port: int32(1 + r.IntN(9)), Protocol: corev1.ProtocolTCP}}
	return s
}

func randomSlice(r *rand.Rand, name, service string) *discoveryv1.EndpointSlice {
	port := int32(80)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}},
	}
	for range r.IntN(4) {
		ready := r.IntN(3) > 0
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.0.%d", r.IntN(6))},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return s
}

// dump writes all that a reader can see.
func dump(x *Index) []string {
	var out []string
	x.services.Range(func(k, v any) bool {
		s := v.(*Service)
		out = append(out, fmt.Sprint("service ", k, s.Addrs, s.Headless, s.ExternalName, s.Ports, s.Endpoints))
		return true
	})
	x.owners.Range(func(k, v any) bool {
		var owners []string
		for _, o := range v.([]Owner) {
			owners = append(owners, fmt.Sprint(o.Service.Name, " ", o.Endpoint != nil, " ", o.Endpoint))
		}
		sort.Strings(owners)
		out = append(out, fmt.Sprint("owner ", k, owners))
		return true
	})
	sort.Strings(out)
	return out
}

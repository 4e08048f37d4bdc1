package services

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/dataplane/service"
)

// proxied is an endpoint as kube-proxy reads it.
type proxied struct {
	ip                                 string
	local, ready, serving, terminating bool
	zones, nodes                       sets.Set[string]
}

func (p proxied) String() string              { return p.ip + ":80" }
func (p proxied) IP() string                  { return p.ip }
func (p proxied) Port() int                   { return 80 }
func (p proxied) IsLocal() bool               { return p.local }
func (p proxied) IsReady() bool               { return p.ready }
func (p proxied) IsServing() bool             { return p.serving }
func (p proxied) IsTerminating() bool         { return p.terminating }
func (p proxied) ZoneHints() sets.Set[string] { return p.zones }
func (p proxied) NodeHints() sets.Set[string] { return p.nodes }

// bothPolicies is a service that has clients of traffic policy Cluster and of Local.
type bothPolicies struct{ proxy.ServicePort }

func (bothPolicies) String() string             { return "ns/web" }
func (bothPolicies) UsesClusterEndpoints() bool { return true }
func (bothPolicies) UsesLocalEndpoints() bool   { return true }

// TestEndpointsAsKubeProxy compares, over random endpoints, which ones serve with kube-proxy's own choice.
func TestEndpointsAsKubeProxy(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	maybe := func() *bool {
		switch random.IntN(4) {
		case 0:
			return nil
		case 1:
			return ptr.To(false)
		}
		return ptr.To(true)
	}
	seen := map[string]bool{}
	for round := range 20_000 {
		zone := []string{"", "a", "b"}[random.IntN(3)]
		hintedAlike, style := random.IntN(3) > 0, random.IntN(4)
		slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}}}
		var theirs []proxy.Endpoint
		for i := range random.IntN(6) {
			e := discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.244.0.%d", i+1)}, NodeName: ptr.To([]string{"me", "n1", "n2"}[random.IntN(3)]),
				Conditions: discoveryv1.EndpointConditions{Ready: maybe(), Serving: maybe(), Terminating: maybe()},
			}
			p := proxied{ip: e.Addresses[0], local: *e.NodeName == "me", ready: ptr.Deref(e.Conditions.Ready, true),
				serving: ptr.Deref(e.Conditions.Serving, true), terminating: ptr.Deref(e.Conditions.Terminating, false)}
			hints := style
			if !hintedAlike {
				hints = random.IntN(4)
			}
			e.Hints = &discoveryv1.EndpointHints{}
			if hints&1 != 0 {
				z := []string{"a", "b"}[random.IntN(2)]
				e.Hints.ForZones, p.zones = []discoveryv1.ForZone{{Name: z}}, sets.New(z)
			}
			if hints&2 != 0 {
				e.Hints.ForNodes, p.nodes = []discoveryv1.ForNode{{Name: *e.NodeName}}, sets.New(*e.NodeName)
			}
			slice.Endpoints = append(slice.Endpoints, e)
			theirs = append(theirs, p)
		}
		cluster, local, _, _ := proxy.CategorizeEndpoints(theirs, bothPolicies{}, "me", map[string]string{corev1.LabelTopologyZone: zone})

		w := &Watcher{cfg: Config{Node: "me"}, zone: zone}
		v := w.view()
		var none translation
		ours := v.backends(v.read([]any{slice}, false, &none), &corev1.ServicePort{Protocol: corev1.ProtocolTCP}, &none)
		near := func(b service.Backend) bool { return !b.Distant }
		here := func(b service.Backend) bool { return b.Node == "me" }
		if a, b := serving(ours, near), addresses(cluster); !slices.Equal(a, b) {
			t.Fatalf("round %d: policy Cluster uses %v, kube-proxy %v; zone %q, endpoints %+v", round, a, b, zone, slice.Endpoints)
		}
		if a, b := serving(ours, here), addresses(local); !slices.Equal(a, b) {
			t.Fatalf("round %d: policy Local uses %v, kube-proxy %v; endpoints %+v", round, a, b, slice.Endpoints)
		}
		if len(cluster) > 0 && len(cluster) < len(theirs) {
			seen[fmt.Sprint("some by topology ", slices.ContainsFunc(ours, func(b service.Backend) bool { return b.Distant }))] = true
		}
	}
	if len(seen) != 2 {
		t.Errorf("the rounds had only %v", seen)
	}
}

// serving is what the plane makes of backends: those that are active, else those that are terminating.
func serving(backends []service.Backend, among func(service.Backend) bool) []string {
	for _, state := range []service.State{service.Active, service.Terminating} {
		var list []string
		for _, b := range backends {
			if b.State == state && among(b) {
				list = append(list, b.Addr.String())
			}
		}
		if len(list) > 0 {
			slices.Sort(list)
			return list
		}
	}
	return nil
}

func addresses(endpoints []proxy.Endpoint) (list []string) {
	for _, e := range endpoints {
		list = append(list, e.IP())
	}
	slices.Sort(list)
	return list
}

func TestDrainedPodIsLastChoiceAtOnce(t *testing.T) {
	e := discoveryv1.Endpoint{Addresses: []string{"10.244.0.2"}, NodeName: ptr.To("me"), TargetRef: &corev1.ObjectReference{UID: "p"}}
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{e}, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}}}
	v := &view{node: "me", draining: func(pod string) bool { return pod == "p" }, reserved: func(netip.Addr) string { return "" }}
	port := &corev1.ServicePort{Protocol: corev1.ProtocolTCP}
	for publishNotReady, want := range map[bool]service.State{false: service.Terminating, true: service.Active} {
		var none translation
		if got := v.backends(v.read([]any{slice}, publishNotReady, &none), port, &none); len(got) != 1 || got[0].State != want {
			t.Errorf("publishNotReadyAddresses %v: %+v, want %v", publishNotReady, got, want)
		}
	}
}
